"""Whatever happens to predictors, picture hosts and callers: the right code in bounded time, then it works again."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc as services

from contract import CONTRACT_VERSION, PredictorInfo
from launch import Server, running
from tests.callers import (
    Answer,
    ask_both,
    ask_grpc,
    ask_rest,
    grpc_request,
    leave_rest,
    read_metrics,
    read_rest,
    wait_until,
)
from tests.picture_host import PictureHost, run_picture_host
from tests.stand_ins import CLASSES, INFO, MARK, StandIn, draw, running_stand_in, write_index
from tests.traffic import Probes
from transformer.channel import PAUSES
from transformer.target import GRPC, REST

BUDGET = 30.0  # seconds; what has to be answered in time is never short of it
SHORT = 3.0  # the budget of requests that must spend theirs
FETCH = 3.0
ADDRESS = "failed to connect to all addresses; last error: ipv4:10.1.2.3:8081: refused"
CLIP_SENTENCE = (
    "the index was made with the CLIP 0123456789abcdef (stand-in), the predictor has the CLIP fedcba9876543210"
)


@pytest.fixture(scope="module")
def stand_in() -> Iterator[StandIn]:
    with running_stand_in() as stand_in:
        yield stand_in


@pytest.fixture(scope="module", params=[REST, GRPC])
def protocol(request: pytest.FixtureRequest) -> str:
    """By which the transformer calls the predictor."""
    return str(request.param)


@pytest.fixture(scope="module")
def transformer(stand_in: StandIn, protocol: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_transformer(stand_in, protocol, tmp_path_factory.mktemp("faults"), BUDGET) as server:
        yield server


@pytest.fixture(scope="module")
def hasty(stand_in: StandIn, protocol: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The same with little time for a request."""
    with running_transformer(stand_in, protocol, tmp_path_factory.mktemp("hasty"), SHORT) as server:
        yield server


@contextmanager
def running_transformer(stand_in: StandIn, protocol: str, folder: Path, budget: float) -> Iterator[Server]:
    flags = [*stand_in.flags(protocol), "--index_dir", str(write_index(folder / "index"))]
    flags += ["--request_timeout", str(budget), "--fetch_timeout", str(FETCH), "--threads", "1", "--max_decodes", "2"]
    flags += ["--allow_networks", "127.0.0.1/32"]
    with running("transformer", flags, folder / "transformer.log") as server:
        yield server


@pytest.fixture(scope="module", autouse=True)
def probes(transformer: Server) -> Iterator[Probes]:
    with Probes(transformer) as probes:
        yield probes


@pytest.fixture(scope="module")
def host() -> Iterator[PictureHost]:
    with run_picture_host({"/red.png": draw("red")}) as host:
        yield host


@pytest.fixture(autouse=True)
def good_again(stand_in: StandIn, transformer: Server) -> Iterator[None]:
    """After every fault the next requests are answered."""
    yield
    stand_in.behave()
    for answer in ask_both(transformer):
        assert answer.code in (200, "OK"), answer


def fail(code: grpc.StatusCode, details: str = ADDRESS, **trailing: str) -> dict[str, Any]:
    return {"error": (code, details, {key.replace("_", "-"): value for key, value in trailing.items()})}


def drop_parameters(message: Any) -> None:
    message.parameters.clear()


def drop_embedding(message: Any) -> None:
    del message.outputs[0], message.raw_output_contents[0]


def cut_tensor(message: Any) -> None:
    message.raw_output_contents[1] = message.raw_output_contents[1][:-1]


def spoil_numbers(message: Any) -> None:
    message.raw_output_contents[0] = b"\0\0\xc0\x7f" * 4  # NaN


def flatten(message: Any) -> None:
    message.outputs[0].shape[:] = [4]


def add_rows(message: Any) -> None:
    message.outputs[0].shape[:] = [2, 4]
    message.raw_output_contents[0] *= 2


def break_names(message: Any) -> None:
    message.raw_output_contents[2] = message.raw_output_contents[2].replace(b"red", b"\xff\xff\xff")


def forget_tensors(message: Any) -> None:
    del message.raw_output_contents[:]


FAULTS = {
    "refusing": (fail(grpc.StatusCode.UNAVAILABLE), 503, "the predictor cannot be reached"),
    "loading": (fail(grpc.StatusCode.UNAVAILABLE, retry_after="5"), 503, "the predictor is not ready"),
    "failing": (fail(grpc.StatusCode.INTERNAL), 503, "the predictor failed with "),
    "closed": (fail(grpc.StatusCode.PERMISSION_DENIED), 503, "the predictor failed with "),
    "full": (fail(grpc.StatusCode.RESOURCE_EXHAUSTED, retry_after="1"), 429, "the predictor's queue is full"),
    "narrow": (fail(grpc.StatusCode.RESOURCE_EXHAUSTED), 413, "send fewer at once"),
    "other size": (fail(grpc.StatusCode.INVALID_ARGUMENT, "use 336"), 503, "the predictor refuses the pixels: use 336"),
    "other name": (fail(grpc.StatusCode.NOT_FOUND, "no such"), 503, "the predictor does not know the model: no such"),
    "other CLIP": ({"info": replace(INFO, fingerprint="fedcba9876543210")}, 503, CLIP_SENTENCE),
    "newer": ({"info": replace(INFO, contract=CONTRACT_VERSION + 1)}, 503, f"contract {CONTRACT_VERSION + 1}"),
    "other resize": ({"info": replace(INFO, resize="nearest")}, 503, "resize 'nearest'"),
    "headless": ({"classes": ()}, 503, "the predictor has no head"),
    "other head": ({"classes": CLASSES[1:]}, 503, "the predictor's head does not know the class 'blue' of the index"),
    "twins": ({"classes": ("red", "red")}, 503, "two classes have the same name"),
    "unmarked": ({"change": drop_parameters}, 503, "lacks the parameters clip, contract and resize"),
    "no embedding": ({"change": drop_embedding}, 503, "it has no embedding"),
    "cut": ({"change": cut_tensor}, 503, "takes 16 bytes, got 15"),
    "NaN": ({"change": spoil_numbers}, 503, "embedding has values that are not finite"),
    "flat": ({"change": flatten}, 503, "embedding must be FP32 [1, 'D'], not FP32 [4]"),
    "too many rows": ({"change": add_rows}, 503, "embedding must be FP32 [1, 'D'], not FP32 [2, 4]"),
    "not UTF-8": ({"change": break_names}, 503, "the predictor's answer cannot be used"),
    "not raw": ({"change": forget_tensors}, 503, "the answer has no raw tensors"),
}
GRPC_CODES = {503: "UNAVAILABLE", 429: "RESOURCE_EXHAUSTED", 413: "RESOURCE_EXHAUSTED", 504: "DEADLINE_EXCEEDED"}
RETRY_AFTER = {503: "5", 429: "1"}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_predictor_gets_its_code_and_sentence(transformer: Server, stand_in: StandIn, fault: str) -> None:
    changes, status, sentence = FAULTS[fault]
    stand_in.behave(**changes)
    over_rest, over_grpc = ask_both(transformer)
    assert (over_rest.code, over_grpc.code) == (status, GRPC_CODES[status])
    for answer in (over_rest, over_grpc):
        assert sentence in answer.sentence
        assert "10.1.2.3" not in answer.sentence
        assert answer.retry_after == RETRY_AFTER.get(status)
        assert answer.seconds < BUDGET


def test_a_slow_predictor_gets_its_code_and_sentence_in_time(hasty: Server, stand_in: StandIn) -> None:
    stand_in.behave(delay=600.0)
    over_rest, over_grpc = ask_both(hasty)
    assert (over_rest.code, over_grpc.code) == (504, "DEADLINE_EXCEEDED")
    for answer in (over_rest, over_grpc):
        assert answer.sentence == "the predictor was too slow for the request's time"
        assert SHORT - 0.5 < answer.seconds < 10 * SHORT
    assert read_metrics(hasty)["doggos_predictor_up"] == 0


@pytest.mark.parametrize(
    "changes",
    [{"info": PredictorInfo(MARK.fingerprint, CONTRACT_VERSION - 1, INFO.resize)}, {"classes": ("zebra", *CLASSES)}],
    ids=["the version before", "a class without pictures"],
)
def test_a_predictor_of_another_release_is_understood(
    transformer: Server, stand_in: StandIn, changes: dict[str, Any]
) -> None:
    stand_in.behave(**changes)
    over_rest, over_grpc = ask_both(transformer, draw("green"))
    assert (over_rest.code, over_grpc.code) == (200, "OK")
    assert over_rest.matches == ["green", "green"]


def test_lost_calls_are_repeated_and_a_full_queue_is_not(transformer: Server, hasty: Server, stand_in: StandIn) -> None:
    def attempts(server: Server = transformer, **changes: Any) -> int:
        stand_in.behave(**changes)
        before = len(stand_in.received)
        ask_rest(server, draw("red"))
        return len(stand_in.received) - before

    assert attempts(**fail(grpc.StatusCode.UNAVAILABLE)) == 1 + len(PAUSES)
    assert attempts(**fail(grpc.StatusCode.CANCELLED)) == 1 + len(PAUSES)
    assert attempts(**fail(grpc.StatusCode.RESOURCE_EXHAUSTED, retry_after="1")) == 1
    assert attempts(**fail(grpc.StatusCode.INVALID_ARGUMENT)) == 1
    assert attempts(hasty, delay=600.0) == 1


def test_a_predictor_that_goes_and_comes_back(transformer: Server, stand_in: StandIn) -> None:
    assert read_metrics(transformer)["doggos_predictor_up"] == 1
    stand_in.stop()
    for answer in ask_both(transformer):
        assert answer.code in (503, "UNAVAILABLE")
        assert answer.sentence == "the predictor cannot be reached"
        assert answer.seconds < BUDGET
    assert read_metrics(transformer)["doggos_predictor_up"] == 0
    assert httpx.get(f"http://{transformer.http}/v2/models/doggos/ready").status_code == 200, (
        "others may still be there"
    )
    stand_in.start()
    wait_until(lambda: ask_rest(transformer, draw("red")).code == 200, "recovery")
    assert read_metrics(transformer)["doggos_predictor_up"] == 1


def test_a_full_predictor_counts_as_up(transformer: Server, stand_in: StandIn) -> None:
    stand_in.behave(**fail(grpc.StatusCode.INTERNAL))
    assert ask_rest(transformer, draw("red")).code == 503
    assert read_metrics(transformer)["doggos_predictor_up"] == 0
    stand_in.behave(**fail(grpc.StatusCode.RESOURCE_EXHAUSTED, retry_after="1"))
    assert ask_rest(transformer, draw("red")).code == 429
    assert read_metrics(transformer)["doggos_predictor_up"] == 1


def test_the_budget_is_one_for_all_steps(transformer: Server, stand_in: StandIn, host: PictureHost) -> None:
    def left() -> float:
        # gRPC sends a time rounded up, or once more an earlier one that is at most 3 % longer.
        return stand_in.time_left[-1] / 1.03 - 0.1

    assert ask_grpc(transformer, draw("red"), timeout=10).code == "OK"
    assert left() <= 10, "a caller's deadline shortens it"
    assert ask_grpc(transformer, draw("red"), timeout=60).code == "OK"
    assert 10 < left() <= BUDGET
    answer = httpx.post(f"http://{transformer.http}/predict/", json={"url": host.url("/later/1.5/red.png")}, timeout=60)
    assert answer.status_code == 200
    assert left() <= BUDGET - 1.5, "the download has spent from it"


def test_a_caller_that_goes_takes_its_call_to_the_predictor_along(transformer: Server, stand_in: StandIn) -> None:
    stand_in.behave(delay=600.0)
    before, cancelled = read_metrics(transformer), stand_in.cancelled
    rest = leave_rest(transformer, b"POST /predict/ HTTP/1.1", draw("red"), "image/png")
    with grpc.insecure_channel(transformer.grpc) as channel:
        call = services.GRPCInferenceServiceStub(channel).ModelInfer.future(grpc_request([draw("red")]))
        wait_until(lambda: stand_in.running == 2, "both calls at the predictor")
        rest.close()
        call.cancel()
        wait_until(lambda: stand_in.cancelled == cancelled + 2, "both calls dropped", BUDGET / 2)
    for code in ("code=499,protocol=http", "code=CANCELLED,protocol=grpc"):
        name = f"doggos_requests_total{{{code}}}"
        wait_until(lambda name=name: read_metrics(transformer)[name] == before.get(name, 0) + 1, name)  # type: ignore[misc]


def test_a_caller_that_goes_during_the_download_costs_nothing_more(
    transformer: Server, stand_in: StandIn, host: PictureHost
) -> None:
    before, calls, requests = read_metrics(transformer), len(stand_in.received), len(host.requests)
    body = b'{"url": "%s"}' % host.url("/silent").encode()
    caller = leave_rest(transformer, b"POST /predict/ HTTP/1.1", body, "application/json")
    wait_until(lambda: len(host.requests) > requests, "the download")
    caller.close()
    name = "doggos_requests_total{code=499,protocol=http}"
    wait_until(lambda: read_metrics(transformer)[name] == before.get(name, 0) + 1, "the end of the request")
    decodes = "doggos_stage_seconds_count{stage=decode}"
    assert read_metrics(transformer)[decodes] == before[decodes]
    assert len(stand_in.received) == calls


def test_a_full_decode_queue_is_429_and_the_rest_is_answered(transformer: Server) -> None:
    """More callers than there is room for, until both protocols have seen both answers."""
    picture, enough, answers = draw("red", 2500), threading.Event(), list[Answer]()

    def keep_asking(ask: Callable[[Server, bytes], Answer]) -> None:
        while not enough.wait(0.1):
            answers.append(ask(transformer, picture))

    with ThreadPoolExecutor(8) as callers:
        asked = [callers.submit(keep_asking, ask) for ask in (ask_rest, ask_grpc) * 4]
        try:
            expected = {200, "OK", 429, "RESOURCE_EXHAUSTED"}
            wait_until(lambda: {answer.code for answer in answers} >= expected, "answers and refusals", 120)
            assert read_metrics(transformer)["doggos_decode_queue_depth"] <= 2
        finally:
            enough.set()
        for future in asked:
            future.result()
    assert {answer.code for answer in answers} == expected, Counter(answer.code for answer in answers)
    refused = [answer for answer in answers if answer.code in (429, "RESOURCE_EXHAUSTED")]
    assert {(answer.retry_after, answer.sentence) for answer in refused} == {("1", "the decode queue is full")}


HOST_FAULTS = {
    "/silent": "too slow",
    "/stall": "too slow",
    "/huge": "more than 20000000 bytes",
    "/drip": "too slow",
    "/drip-head": "too slow",
    "/endless-continue": "did not answer in proper HTTP",
    "/endless-hints": "did not answer in proper HTTP",
    "/close": "broke off the connection",
    "/reset": "broke off",
    "/short": "broke off its answer",
    "/garbage": "did not answer in proper HTTP",
    "/endless-head": "did not answer in proper HTTP",
    "/status/404": "answered 404",
    "/status/500": "answered 500",
    "/status/429": "answered 429",
    "/redirect/302/ftp://x/y": "redirected to something that is not an http or https URL",
}


def test_bad_picture_hosts_are_424_and_hold_nobody_up(transformer: Server, host: PictureHost) -> None:
    """All of them at once, while good requests go on."""

    def ask(path: str) -> Answer:
        return read_rest(httpx.post(f"http://{transformer.http}/predict/", json={"url": host.url(path)}, timeout=60))

    with ThreadPoolExecutor(len(HOST_FAULTS)) as callers:
        asked = {path: callers.submit(ask, path) for path in HOST_FAULTS}
        for _ in range(5):
            assert ask("/red.png").code == 200
        answers = {path: future.result() for path, future in asked.items()}
    for path, answer in answers.items():
        assert answer.code == (413 if path == "/huge" else 424), (path, answer)
        assert HOST_FAULTS[path] in answer.sentence, (path, answer)
        assert answer.seconds < 5 * FETCH, (path, answer)
    name = "doggos_fetch_seconds_count{code=424}"
    assert read_metrics(transformer)[name] >= len(HOST_FAULTS) - 1


def test_health_and_metrics_answered_all_the_time(probes: Probes) -> None:
    assert len(probes.seconds) > 100
    assert not probes.failed
    assert probes.p99 < 1, f"{probes.p99:.3f} s"
