"""What a transformer measures of hosts, of its predictor and of itself."""

import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import httpx
import pytest

from launch import Server, running
from serving.call import Call
from serving.deadline import Deadline
from tests.callers import ask_rest, read_metrics, wait_until
from tests.pair import descriptors, threads
from tests.picture_host import PictureHost, run_picture_host
from tests.programs import free_port
from tests.stand_ins import INFO, MARK, StandIn, draw, running_stand_in, write_index

FETCH = 2.0  # seconds


@pytest.fixture(scope="module")
def stand_in() -> Iterator[StandIn]:
    with running_stand_in() as stand_in:
        yield stand_in


@pytest.fixture(scope="module")
def transformer(stand_in: StandIn, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("metrics")
    flags = ["--predictor_host", stand_in.target, "--index_dir", str(write_index(folder / "index"))]
    flags += ["--fetch_timeout", str(FETCH), "--max_decodes", "7", "--allow_networks", "127.0.0.1/32"]
    with running("transformer", flags, folder / "transformer.log") as server:
        yield server


@pytest.fixture(scope="module")
def host() -> Iterator[PictureHost]:
    with run_picture_host({"/red.png": draw("red")}) as host:
        yield host


def post(server: Server, url: str) -> int:
    return httpx.post(f"http://{server.http}/predict/", json={"url": url}, timeout=60).status_code


def gained(server: Server, before: dict[str, float], name: str) -> float:
    return read_metrics(server).get(name, 0) - before.get(name, 0)


def wait_for_one(server: Server, before: dict[str, float], name: str) -> None:
    """A request is counted once its answer is out."""
    wait_until(lambda: gained(server, before, name) == 1, name)


def test_a_slow_host_is_not_our_time(transformer: Server, host: PictureHost) -> None:
    before = read_metrics(transformer)
    assert post(transformer, host.url("/later/1.2/red.png")) == 200
    wait_for_one(transformer, before, "doggos_own_seconds_bucket{le=1.0}")  # the objective is met
    assert gained(transformer, before, "doggos_request_duration_seconds_sum{protocol=http}") > 1.2
    assert gained(transformer, before, "doggos_stage_seconds_sum{stage=fetch}") > 1.2


def test_a_failed_request_is_no_answer_of_the_objective(transformer: Server, host: PictureHost) -> None:
    before = read_metrics(transformer)
    assert post(transformer, host.url("/lost.png")) == 424
    wait_for_one(transformer, before, "doggos_request_duration_seconds_count{protocol=http}")
    assert gained(transformer, before, "doggos_own_seconds_count") == 0


REASONS: dict[str, tuple[int, Any]] = {
    "status": (424, lambda host: host.url("/status/500")),
    "redirect": (424, lambda host: host.url("/redirect/302/ftp://x")),
    "connect": (424, lambda host: f"http://127.0.0.1:{free_port()}/"),
    "timeout": (424, lambda host: host.url("/silent")),
    "broken": (424, lambda host: host.url("/short")),
    "address_refused": (403, lambda host: "http://10.0.0.1/"),
    "too_large": (413, lambda host: host.url("/huge")),
    "out_of_range": (422, lambda host: "ftp://127.0.0.1/"),
    "invalid_request": (400, lambda host: "dog.jpg"),
}


@pytest.mark.parametrize("reason", REASONS)
def test_failed_downloads_are_counted_by_reason(transformer: Server, host: PictureHost, reason: str) -> None:
    code, url = REASONS[reason]
    before = read_metrics(transformer)
    assert post(transformer, url(host)) == code
    wait_for_one(transformer, before, f"doggos_fetch_failures_total{{reason={reason}}}")


def test_what_is_in_flight_is_shown_beside_its_limit(transformer: Server, stand_in: StandIn, host: PictureHost) -> None:
    stand_in.behave(delay=1.0)
    with ThreadPoolExecutor(2) as callers:
        asked = [callers.submit(ask_rest, transformer) for _ in range(2)]
        wait_until(lambda: read_metrics(transformer)["doggos_requests_in_flight"] == 2, "two in flight")
        assert [answer.result().code for answer in asked] == [200, 200]
        slow = callers.submit(post, transformer, host.url("/later/1/red.png"))
        wait_until(lambda: read_metrics(transformer)["doggos_fetches_in_flight"] == 1, "a download in flight")
        assert slow.result() == 200
    stand_in.behave()
    wait_until(lambda: read_metrics(transformer)["doggos_requests_in_flight"] == 0, "none in flight")
    metrics = read_metrics(transformer)
    assert metrics["doggos_fetches_in_flight"] == 0
    assert (metrics["doggos_decode_queue_depth"], metrics["doggos_decode_queue_limit"]) == (0, 7)
    assert metrics["doggos_fetch_limit"] == 256


def test_a_predictor_of_another_clip_is_counted_and_the_index_is_named(transformer: Server, stand_in: StandIn) -> None:
    before = read_metrics(transformer)
    stand_in.behave(info=replace(INFO, fingerprint="fedcba9876543210"))
    assert ask_rest(transformer).code == 503
    stand_in.behave()
    wait_for_one(transformer, before, "doggos_predictor_mismatches_total")
    assert before["doggos_predictor_up"] == read_metrics(transformer)["doggos_predictor_up"] == 1, "it did answer"
    assert before[f"doggos_index_info{{clip={MARK.fingerprint},name={MARK.name}}}"] == 1
    assert before["doggos_index_rows"] == 12


def test_metrics_are_answered_beside_idle_connections_and_callers_that_do_not_read(transformer: Server) -> None:
    before, (address, port) = threads(transformer), transformer.metrics.split(":")
    with ExitStack() as stack:
        for kind in (b"", b"GET /metrics HTTP/1.1\r\n", b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 3) * 100:
            stack.enter_context(socket.create_connection((address, int(port)))).sendall(kind)
        assert read_metrics(transformer)["doggos_index_rows"] == 12
        assert threads(transformer) - before < 10
        assert descriptors(transformer) >= 300, "they are all still there"


def test_a_scrape_of_odd_bytes_is_answered(transformer: Server) -> None:
    url = f"http://{transformer.metrics}/metrics"
    with socket.create_connection(tuple(transformer.metrics.split(":"))) as caller:  # type: ignore[arg-type]
        caller.sendall(b"GET /metrics?name[]=%ff HTTP/1.0\r\nAccept: \xff\r\nX: \xff\r\n\r\n")
        assert caller.recv(100).startswith(b"HTTP/1.1 200 OK")
    assert httpx.get(url, headers={"accept": "application/openmetrics-text"}).text.endswith("# EOF\n")
    assert httpx.get(url, headers={"accept-encoding": "gzip"}).headers["content-encoding"] == "gzip"
    assert '"level": "error"' not in transformer.log.read_text()


def test_blocks_of_one_stage_at_the_same_time_count_once() -> None:
    call, begin = Call(Deadline.after(60)), time.monotonic()
    with call.stage("fetch"), call.stage("fetch"):
        time.sleep(0.02)
    between = time.monotonic() - begin
    call.record("fetch", begin - 1.0, begin)
    assert 1.0 < call.stages["fetch"] <= 1.0 + between
