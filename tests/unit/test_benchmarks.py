"""What the benchmarks say of figures, and that they ask what they mean to; they run in `make bench-smoke`."""

import asyncio
import os
import re
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from benchmarks import open_loop
from benchmarks import rounds as rounds_module
from benchmarks.load import load_http
from benchmarks.metering import DECODE, FORWARD, PREDICTOR_LOOP, TRANSFORMER_LOOP, Meter, measure_parts, split_seconds
from benchmarks.open_loop import LOST, OpenLoop, encode_post
from benchmarks.page import PAGE, TABLES, fill
from benchmarks.pairs import PAIRS, PAIRS_AT_8
from benchmarks.plans import BARE, PLANS, TAKES, Part
from benchmarks.profile import join_lines, pool
from benchmarks.profiled import STAGES, show_profile
from benchmarks.systems import TRIED, list_systems, read_settings
from benchmarks.targets import list_targets
from benchmarks.trial import PictureHost, Trial
from benchmarks.workload import Workload
from serving.errors import ArtefactError
from tests.callers import wait_until

AS_WRITTEN = "requests/s at 8, best precision that agrees, against Ray as written"


def load(per_second: float, p50: float = 50.0, **changes: Any) -> dict[str, Any]:
    costs = {"core_ms": 60.0, "client_core_ms": 0.1, "host_core_ms": 0.1, "megabytes": 900.0}
    return {
        "per_second": per_second,
        "requests": 100,
        "errors": 0,
        "not_2xx": 0,
        "p50": p50,
        "p99": 90.0,
        **costs,
        **changes,
    }


def rounds(*loads: dict[str, Any], same_best: float = 1.0) -> list[dict[str, Any]]:
    agreement = {"same_best": same_best, "matches_in_common": 1.0}
    return [{"agreement": agreement, "levels": {"8": one, "1": one}} for one in loads]


def serve(**systems: list[dict[str, Any]]) -> dict[str, Any]:
    names = {
        "ours": "ours, OpenVINO fp32",
        "bf16": "ours, OpenVINO bf16",
        "ray": "Ray, as written",
    }
    return {"parts": [{"pictures": "500x375", "rounds": {names[key]: found for key, found in systems.items()}}]}


def find(figures: dict[str, Any] | None, what: str, **others: Any) -> str:
    newest = {**dict.fromkeys(("pairs", "profile", "overload", "start", "scale", "halves")), **others}
    (found,) = [target for target in list_targets({"serve": figures, **newest}) if target.what == what]
    return found.met


def test_a_target_is_judged_by_the_median_of_sound_rounds() -> None:
    fp32, ray = AS_WRITTEN, rounds(load(0.04), load(0.044), load(0.12))
    assert find(serve(ours=rounds(load(43), load(44), load(45)), ray=ray), fp32) == "undecided, 2 of 3"
    assert find(serve(ours=rounds(load(43), load(43), load(99)), ray=ray), fp32) == "undecided, 1 of 3"
    assert find(serve(ours=rounds(load(44), load(48), load(130)), ray=ray), fp32) == "yes"
    assert find(serve(ours=rounds(load(44), load(99, errors=1)), ray=ray), fp32) == "not measured"
    assert find(serve(ours=rounds(load(44))), fp32) == "not measured"


def test_a_precision_that_answers_otherwise_does_not_count() -> None:
    ours, ray = rounds(load(100), load(101)), rounds(load(0.2), load(0.2))
    good, other = rounds(load(300), load(300)), rounds(load(300), load(300), same_best=0.9)
    assert find(serve(ours=ours, bf16=good, ray=ray), AS_WRITTEN) == "yes"
    assert find(serve(ours=ours, bf16=other, ray=ray), AS_WRITTEN) == "no"
    pairs = {"levels": [in_pair(f"ours, OpenVINO {name}", "Ray, mended", rate) for name, rate in BESIDE_RAY]}
    best = "requests/s at 8, best precision that agrees, against Ray mended"
    assert find(serve(ours=ours, bf16=good), best, pairs=pairs) == "yes"
    assert find(serve(ours=ours, bf16=other), best, pairs=pairs) == "no"


def in_pair(ours: str, other: str, rate: float = 11.0, slower: float = 0.0, p99: float = 400.0) -> dict[str, Any]:
    """Beside one that answers 10 requests/s with a p99 of 500 ms; in one slice of three ours answers `slower`."""
    slices = [[rate, 10.0], [slower or rate, 10.0], [rate, 10.0]]
    sides = {side: {"per_second": 10.0, "p50": 90.0, "p99": 500.0, "core_ms": 90.0} for side in ("ours", "other")}
    return {"ours": ours, "other": other, "at_once": 8, "slices": slices, "sides": sides | {"ours": {"p99": p99}}}


BESIDE_RAY = (("fp32", 100.0), ("bf16", 300.0))


def test_ours_is_judged_beside_the_one_that_is_most_ahead() -> None:
    what, p99 = (
        "the same with OpenVINO fp32 in theirs, too",
        "p99 at 8, OpenVINO fp32 / the lowest of the others with OpenVINO",
    )
    ours, last = "ours, OpenVINO fp32", "MLServer, OpenVINO fp32"
    good = [in_pair(ours, f"{name}, OpenVINO fp32") for name in ("FastAPI", "LitServe", "BentoML")]
    assert find(None, what, pairs={"levels": good}) == "not measured", "MLServer may be the best"
    assert find(None, what, pairs={"levels": [*good, in_pair(ours, last)]}) == "yes"
    assert find(None, what, pairs={"levels": [*good, in_pair(ours, last, 99.0, slower=9.0)]}) == "undecided, 2 of 3"
    assert find(None, what, pairs={"levels": [*good, in_pair(ours, last, 9.0)]}) == "no"
    assert find(None, p99, pairs={"levels": [*good, in_pair(ours, last, p99=501.0)]}) == "no, one run"
    assert find(None, p99, pairs={"levels": [*good, in_pair(ours, last)]}) == "yes, one run"
    assert find(None, what) == "not measured"


def in_turn(p50: float, level: int = 1, core_ms: float = 58.0, per_second: float = 20.0) -> dict[str, Any]:
    one = {"decode_ms": 3.0, "forward_ms": 43.5, "core_ms_at_1": 88.0}
    bare = one if level == 1 else {"pictures_per_second": 20.0, "core_ms_at_8": 55.0}
    stages = {**dict.fromkeys(STAGES, 0.0), "decode": 3.1, "forward": 44.0}
    costs = {FORWARD: core_ms - 4.5, DECODE: 2.0, TRANSFORMER_LOOP: 1.5, PREDICTOR_LOOP: 1.0}
    ours = {"per_second": per_second, "p50": p50, "milliseconds": stages, "core_ms": costs}
    return {"system": "ours, OpenVINO fp32", "at_once": level, "bare": bare, "ours": ours}


def test_what_is_added_is_beyond_the_bare_limit_of_the_same_round() -> None:
    alone, what = [in_turn(50.0), in_turn(49.5)], "p50 at 1 less forward less decode, OpenVINO fp32"
    assert find(None, what, profile={"levels": alone}) == "yes"
    assert find(None, what, profile={"levels": [*alone, in_turn(51.0)]}) == "undecided, 2 of 3"
    assert find(None, what) == "not measured"


def test_bare_is_pooled_as_ours_is() -> None:
    slices = [{"decode_ms": 2.0, "core_ms_at_1": 80.0}, {"decode_ms": 2.1, "core_ms_at_1": 82.0}]
    assert pool([*slices, {"decode_ms": 9.0, "core_ms_at_1": 99.0}]) == {"decode_ms": 2.1, "core_ms_at_1": 87.0}


def test_saturation_is_the_level_at_which_most_is_answered() -> None:
    levels = [in_turn(400.0, level=8, core_ms=70, per_second=17.0), in_turn(900.0, level=32, per_second=18.5)]
    profile = {"levels": 2 * [in_turn(50.0, per_second=15.0), *levels]}
    share = "throughput at saturation / forward + decode, OpenVINO fp32"
    cost = "core-ms a request at saturation beyond forward + decode, OpenVINO fp32"
    assert find(None, share, profile=profile) == find(None, cost, profile=profile) == "yes"
    for what in (cost, share):
        assert find(None, what, profile={"levels": levels[:1]}) == "no, one run"
    shown = show_profile(profile).splitlines()[4]
    assert re.sub(" +", " ", shown) == "| ours, OpenVINO fp32 | 32 | 18.5 | 0.93 | | | | 58.0 | 3.0 | 0.5 |"


def test_two_predictors_are_those_of_halves_where_the_cluster_measured_none() -> None:
    what, two = "two predictors with half a core each / one", {"ratio": 1.9, "points_from_even": 1.0}
    rounds = {"ratios": [1.9, 2.0, 1.85]}
    assert find(None, what, scale={"levels": []}, halves={"two_predictors": two | rounds}) == "yes"
    assert find(None, what, scale={"levels": []}) == "not measured"
    assert (
        find(None, what, scale={"two_predictors": two | {"ratio": 1.5}}, halves={"two_predictors": two})
        == "no, one run"
    )


def test_plans_and_settings_name_systems_that_there_are() -> None:
    systems = list_systems(Workload())
    named = {name for plan in PLANS.values() for part in plan for name in (*part.systems, *part.without)}
    assert named <= {*systems, *BARE}
    assert set(read_settings()) <= set(systems)
    assert all(len(entry[TRIED]) == 3 for entry in read_settings().values())


def test_a_precision_that_a_processor_lacks_is_skipped_with_the_reason(tmp_path: Path) -> None:
    workload = Workload(tmp_path)
    trial, systems = Trial(Part(), workload), list_systems(workload)
    names = [name for name in (*BARE, *systems) if "bf16" in name]
    for name in names:
        trial.measure_one(name, systems, PictureHost([], Meter()))
    assert len(names) > 2
    assert {name: "no exported-bf16" in reason for name, reason in trial.skipped.items()} == dict.fromkeys(names, True)


def test_a_part_of_a_plan_does_not_take_the_place_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds_module, "RESULTS", tmp_path)
    for name in ("serve-20261124T100000Z", "serve-20261125T100000Z", "serve-part-20261126T100000Z"):
        (tmp_path / f"{name}.json").write_text("{}")
    assert rounds_module.find_newest("serve") == tmp_path / "serve-20261125T100000Z.json"
    assert rounds_module.find_newest("serve-part") == tmp_path / "serve-part-20261126T100000Z.json"


def test_the_page_says_how_long_a_plan_takes() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \|.*\| (.*) \|$", PAGE.read_text(), re.MULTILINE))
    assert rows == TAKES


def test_the_page_has_a_place_for_each_table() -> None:
    page = PAGE.read_text()
    for name in ("targets", *TABLES):
        filled = fill(page, name, "new figures")
        assert filled.count("new figures") == 1
        assert fill(filled, name, "newer figures").count("new figures") == 0
    with pytest.raises(ArtefactError, match="no <!-- table -->"):
        fill(page, "table", "")


def test_the_open_loop_does_not_wait_for_answers() -> None:
    released, asked = asyncio.Event(), []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            body = await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split()[0]))
            asked.append(body)
            if len(asked) == 20:
                released.set()  # nobody was answered until then
            await released.wait()
            if len(asked) > 20:
                break
            status = b"429 Too Many Requests" if body == b"two" else b"200 OK"
            writer.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 3\r\n\r\n{}\n")
        writer.close()

    async def offer() -> dict[int, int]:
        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
            client = OpenLoop(address, [encode_post("here", "/", "text/plain", body) for body in (b"one", b"two")])
            outcome = await client.offer(rate=200, seconds=0.1)
            lost = await client.offer(rate=10, seconds=0.1)
            return {**{status: len(found) for status, found in outcome.taken.items()}, **dict.fromkeys(lost.taken, -1)}

    found = asyncio.run(asyncio.wait_for(offer(), 60))
    assert found == {200: 10, 429: 10, LOST: -1}


class SlowServer(BaseHTTPRequestHandler):
    """Answers 200 after a while, and 503 about whatever has `full` in it."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        time.sleep(0.3)
        self.send_response(503 if b"full" in body else 200)
        self.send_header("content-length", "0")
        self.end_headers()


def test_a_server_that_says_nothing_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_loop, "PATIENCE", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        client = OpenLoop(f"127.0.0.1:{mute.getsockname()[1]}", [encode_post("here", "/", "text/plain", b"")])
        outcome = asyncio.run(asyncio.wait_for(client.find_capacity(2, 60.0), 30))
    assert {status: len(taken) for status, taken in outcome.taken.items()} == {LOST: 2}


def test_what_is_under_way_at_the_end_is_waited_for_and_counted() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), SlowServer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"127.0.0.1:{server.server_port}"
        found = load_http(address, "/predict/", '{"url": "URL"}', ["a", "b", "full"], concurrency=3, seconds=0.1)
        server.shutdown()
    assert (found["requests"], found["not_2xx"], found["errors"]) == (3, 1, 0)
    assert found["seconds"] >= 0.3
    assert 300 <= found["p50"] <= 1000 * found["seconds"]
    assert found["client_core_ms"] > 0

    refused = load_http(address, "/predict/", '{"url": "URL"}', ["a"], concurrency=2, seconds=0.0)
    assert (refused["requests"], refused["errors"]) == (0, 2)


def test_a_request_is_taken_apart_by_the_lines_of_both_servers() -> None:
    here = {
        "request_id": "a",
        "milliseconds": 60.0,
        "stages": {"fetch": 1.0, "decode": 2.0, "predict": 50.0, "search": 0.5},
    }
    there = {"request_id": "a", "milliseconds": 49.0, "stages": {"queue": 3.0, "forward": 45.0}}
    (found,) = join_lines([here, {**here, "request_id": "only here"}], [there, {**there, "request_id": "only there"}])
    assert found["hop"] == 2.0 and found["rest"] == 6.5 and found["beyond"] == 13.0
    stages = ("download", "decode", "hop", "queue", "forward", "search", "rest")
    assert sum(found[stage] for stage in stages) == found["whole"] == 60.0


def test_the_first_threads_time_is_told_from_the_others() -> None:
    first, others = split_seconds(os.getpid())
    thread = threading.Thread(target=_compute)
    thread.start()
    thread.join()  # what has ended counts
    after_first, after_others = split_seconds(os.getpid())
    assert after_others - others >= 0.25 and after_first - first < 0.2


def _compute() -> None:
    end = time.thread_time() + 0.3
    while time.thread_time() < end:
        pass


def test_time_is_counted_for_the_right_server() -> None:
    meter, code = Meter(), "import time\nwhile time.process_time() < 0.5: pass\nprint(flush=True); input()"
    commands = [[sys.executable, "-c", code, argument] for argument in ("transformer", "predictor")]
    pipe = subprocess.PIPE
    with ExitStack() as stack:
        for command in commands:
            process = stack.enter_context(subprocess.Popen(command, env=dict(meter.environ), stdin=pipe, stdout=pipe))
            stack.callback(process.kill)
            assert process.stdout
            process.stdout.readline()
        used = measure_parts(meter)
    assert used[TRANSFORMER_LOOP] >= 0.4 and used[PREDICTOR_LOOP] >= 0.4 and used[DECODE] < 0.2 and used[FORWARD] < 0.2


def test_what_is_suspended_gets_no_core_but_is_ended_as_any_other() -> None:
    meter = Meter()
    code = "import signal, sys\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(7))\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", code], env=dict(meter.environ)) as process:
        try:
            wait_until(lambda: meter.cpu_seconds() >= 0.2, "its start")
            with meter.suspended():
                before = meter.cpu_seconds()
                time.sleep(0.3)
                assert meter.cpu_seconds() - before <= 0.02
                with meter.resumed():
                    wait_until(lambda: meter.cpu_seconds() - before >= 0.1, "its turn")
                before = meter.cpu_seconds()
                time.sleep(0.3)
                assert meter.cpu_seconds() - before <= 0.02
                meter.stop(patience=30)
            assert process.wait(10) == 7
        finally:
            process.kill()


def test_what_the_targets_are_beside_is_measured() -> None:
    served = serve(ours=rounds(load(10)), bf16=rounds(load(20)))
    levels = [{**in_pair(*pair), "at_once": level} for pair in PAIRS for level in (1, 8, 32)]
    pairs = {"levels": [*levels, *(in_pair(*pair) for pair in PAIRS_AT_8)]}
    newest = {**dict.fromkeys(("profile", "overload", "start", "scale", "halves")), "serve": served, "pairs": pairs}
    beside = [one for one in list_targets(newest) if one.unit == " times" and "predictors" not in one.what]
    assert [one.what for one in beside if one.found is None] == [AS_WRITTEN]
    assert len(beside) == 13


def test_rounds_of_parts_are_not_mixed() -> None:
    ray = rounds(load(0.04), load(0.04))
    two, three = serve(ours=rounds(load(41), load(39)), ray=ray), serve(bf16=rounds(load(1), load(1), load(1)))
    assert find({"parts": [*two["parts"], *three["parts"]]}, AS_WRITTEN) == "undecided, 1 of 2"
