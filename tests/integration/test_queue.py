"""The predictor's queue behind its two protocols: full, abandoned, too late, and behind an engine that fails."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc as services

from contract import MODEL_NAME
from launch import Server, running
from serving.call import TIMEOUT_MS, Call
from serving.deadline import Deadline
from serving.errors import NotReady, QueueFull, TooLarge
from tests.callers import INFER, binary_body, leave_rest, pixels_request, read_metrics, wait_until
from tests.stand_ins import SIZE
from tests.traffic import Probes
from transformer.channel import open_channel
from transformer.target import GRPC, REST

BLACK = 0
QUEUE = 4


@pytest.fixture(scope="module")
def hold(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file that keeps a forward from its end."""
    return tmp_path_factory.mktemp("queue") / "hold"


@pytest.fixture(scope="module")
def predictor(hold: Path) -> Iterator[Server]:
    """One forward at a time, of one picture; four may wait."""
    flags = ["--hold", str(hold), "--fail_on_black", "on", "--max_batch", "1", "--max_queue", str(QUEUE)]
    flags += ["--request_timeout", "60", "--max_body_bytes", "100000"]
    with running("tests.pretender", flags, hold.with_name("predictor.log")) as server:
        yield server


@pytest.fixture(scope="module", autouse=True)
def probes(predictor: Server) -> Iterator[Probes]:
    with Probes(predictor) as probes:
        yield probes


@pytest.fixture
def stub(predictor: Server) -> Iterator[Any]:
    with grpc.insecure_channel(predictor.grpc) as channel:
        yield services.GRPCInferenceServiceStub(channel)


@pytest.fixture(autouse=True)
def idle(predictor: Server) -> Iterator[None]:
    """Every test begins and ends with an empty queue."""
    yield
    assert post(predictor).status_code == 200
    assert read_metrics(predictor)["doggos_queue_depth"] == 0


def post(server: Server, shade: int = 100, milliseconds: int | None = None) -> httpx.Response:
    body, headers = binary_body(pixels_request(1, shade))
    if milliseconds is not None:
        headers[TIMEOUT_MS] = str(milliseconds)
    return httpx.post(f"http://{server.http}{INFER}", content=body, headers=headers, timeout=60)


def call(stub: Any, shade: int = 100) -> tuple[str, dict[str, str]]:
    try:
        stub.ModelInfer(pixels_request(1, shade), timeout=60)
    except grpc.RpcError as error:
        return error.code().name, dict(error.trailing_metadata() or ())
    return "OK", {}


def depth(server: Server) -> float:
    return read_metrics(server)["doggos_queue_depth"]


def forwards(server: Server) -> float:
    return read_metrics(server)["doggos_batch_size_count"]


@contextmanager
def busy(predictor: Server, hold: Path) -> Iterator[None]:
    """The time of one forward, which begins before the block and ends after it."""
    before = forwards(predictor)
    hold.touch()
    with ThreadPoolExecutor(1) as callers:
        try:
            first = callers.submit(post, predictor)
            wait_until(lambda: forwards(predictor) == before + 1, "the first forward")
            yield
        finally:
            hold.unlink()
        assert first.result().status_code == 200


def test_a_full_queue_is_refused_at_once_on_both_protocols(predictor: Server, stub: Any, hold: Path) -> None:
    before = forwards(predictor)
    with ThreadPoolExecutor(16) as callers:
        with busy(predictor, hold):
            over_rest = [callers.submit(post, predictor) for _ in range(8)]
            over_grpc = [callers.submit(call, stub) for _ in range(8)]
            asked = [*over_rest, *over_grpc]
            wait_until(lambda: sum(future.done() for future in asked) == 16 - QUEUE, "refusals during the forward")
            assert depth(predictor) == QUEUE
        answers = [future.result() for future in over_rest]
        replies = [future.result() for future in over_grpc]
    codes = [answer.status_code for answer in answers] + [{"OK": 200}.get(code, 429) for code, _ in replies]
    assert (codes.count(200), codes.count(429)) == (QUEUE, 16 - QUEUE)
    assert forwards(predictor) == before + 1 + QUEUE
    for answer in answers:
        assert answer.headers.get("retry-after") == ("1" if answer.status_code == 429 else None)
    for code, trailing in replies:
        assert code in ("OK", "RESOURCE_EXHAUSTED")
        assert trailing.get("retry-after") == (None if code == "OK" else "1")


def test_work_of_callers_that_went_away_is_not_computed(predictor: Server, stub: Any, hold: Path) -> None:
    before = forwards(predictor)
    with busy(predictor, hold):
        body, headers = binary_body(pixels_request(1))
        length = headers["Inference-Header-Content-Length"]
        line = f"POST {INFER} HTTP/1.1\r\nInference-Header-Content-Length: {length}".encode()
        over_rest = leave_rest(predictor, line, body, "application/octet-stream")
        over_grpc = stub.ModelInfer.future(pixels_request(1))
        wait_until(lambda: depth(predictor) == 2, "two that wait")
        over_rest.close()
        over_grpc.cancel()
        wait_until(lambda: depth(predictor) == 0, "an empty queue")
    assert post(predictor).status_code == 200
    assert forwards(predictor) == before + 2


def test_work_whose_time_is_spent_is_not_computed(predictor: Server, stub: Any, hold: Path) -> None:
    before = forwards(predictor)
    with busy(predictor, hold):
        over_rest = post(predictor, milliseconds=500)
        assert over_rest.status_code == 504, "as the caller's header says"
        late = wait_in_queue(predictor, stub)
        assert late.exception().code() == grpc.StatusCode.DEADLINE_EXCEEDED
        wait_until(lambda: depth(predictor) == 0, "an empty queue")
    assert post(predictor).status_code == 200
    assert forwards(predictor) == before + 2


def wait_in_queue(predictor: Server, stub: Any) -> Any:
    """A call with a deadline, seen in the queue; a machine may be too slow to see a short one there."""
    for seconds in (0.5, 2, 8, 20):
        call = stub.ModelInfer.future(pixels_request(1), timeout=seconds)
        wait_until(lambda call=call: depth(predictor) == 1 or call.done(), "a call")  # type: ignore[misc]
        if not call.done():
            return call
    raise AssertionError("no call came to the queue")


def test_an_engine_that_fails_fails_only_that_request(predictor: Server, stub: Any) -> None:
    with ThreadPoolExecutor(3) as callers:
        good, bad = callers.submit(post, predictor), callers.submit(call, stub, BLACK)
        over_rest = callers.submit(post, predictor, BLACK)
        assert good.result().status_code == 200
        assert bad.result()[0] == "INTERNAL"
        assert over_rest.result().json() == {"error": "the engine failed"}
        assert over_rest.result().status_code == 500
    log = predictor.log.read_text()
    assert '"exception": "RuntimeError < pretender.py:' in log
    assert "Traceback" not in log


@pytest.mark.parametrize("protocol", [REST, GRPC])
def test_the_transformer_tells_a_full_queue_from_a_large_message(predictor: Server, hold: Path, protocol: str) -> None:
    async def ask(pictures: int) -> None:
        channel = open_channel(predictor.http if protocol == REST else predictor.grpc, protocol, MODEL_NAME)
        try:
            pixels = np.zeros((pictures, SIZE, SIZE, 3), np.uint8) + 50
            await channel.predict(pixels, Call(Deadline.after(30)))
        finally:
            await channel.close()

    async def ask_many() -> list[Any]:
        tasks = [asyncio.ensure_future(ask(2)) for _ in range(5)]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        hold.unlink()  # noqa: ASYNC240
        return await asyncio.gather(*tasks, return_exceptions=True)

    with pytest.raises(TooLarge, match="send fewer at once"):
        asyncio.run(ask(32))
    hold.touch()
    full = [result for result in asyncio.run(ask_many()) if result is not None]
    assert full
    assert all(isinstance(error, QueueFull) for error in full), full


def test_a_port_of_the_other_protocol_is_named(predictor: Server) -> None:
    async def ask() -> None:
        channel = open_channel(predictor.grpc, REST, MODEL_NAME)
        try:
            await channel.predict(np.zeros((1, SIZE, SIZE, 3), np.uint8), Call(Deadline.after(30)))
        finally:
            await channel.close()

    with pytest.raises(NotReady, match="--predictor_host takes its HTTP port"):
        asyncio.run(ask())


def test_health_and_metrics_answered_all_the_time(probes: Probes) -> None:
    assert len(probes.seconds) > 20
    assert not probes.failed
    assert probes.p99 < 1, f"{probes.p99:.3f} s"
