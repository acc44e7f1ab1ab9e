"""SIGTERM under load: what is in flight is answered, what follows health loses nothing, and the process ends with 0."""

import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc as services

from launch import Server, running
from tests.callers import INFER, binary_body, grpc_request, leave_rest, pixels_request, wait_until
from tests.programs import free_port, program
from tests.stand_ins import draw, running_stand_in, write_index
from tests.traffic import Traffic

STATUS = health_pb2.HealthCheckResponse


@dataclass(frozen=True)
class Kind:
    """One of the two servers, whose requests take some time, and no end while there is a file `hold`; and a request."""

    start: Callable[..., Any]
    message: Any


@contextmanager
def running_predictor(folder: Path, seconds: float, *flags: str) -> Iterator[Server]:
    flags = ("--forward_seconds", str(seconds), "--hold", str(folder / "hold"), "--max_batch", "32", *flags)
    with running("tests.pretender", flags, folder / "predictor.log") as server:
        yield server


@contextmanager
def running_transformer(folder: Path, seconds: float, *flags: str) -> Iterator[Server]:
    with running_stand_in() as stand_in:
        start = ["--predictor_host", stand_in.target, "--index_dir", str(write_index(folder / "index"))]
        with running("transformer", [*start, *flags], folder / "transformer.log") as server:
            stand_in.behave(delay=seconds, hold=folder / "hold")
            yield server


KINDS = {
    "predictor": Kind(running_predictor, pixels_request(1)),
    "transformer": Kind(running_transformer, grpc_request([draw("red")])),
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


def infer(server: Server, message: Any) -> httpx.Response:
    body, headers = binary_body(message)
    return httpx.post(f"http://{server.http}{INFER}", content=body, headers=headers, timeout=60)


def ready(server: Server) -> int:
    return httpx.get(f"http://{server.http}/v2/models/doggos/ready", timeout=30).status_code


def begin(server: Server, message: Any, callers: ThreadPoolExecutor, stub: Any) -> tuple[Any, Any]:
    """A request over each protocol that the server is busy with."""
    over_rest, over_grpc = callers.submit(infer, server, message), stub.ModelInfer.future(message, timeout=60)
    wait_until(lambda: concurrency(server) > 1.5, "two requests in flight")
    return over_rest, over_grpc


def metric(server: Server, name: str) -> float:
    text = httpx.get(f"http://{server.metrics}/metrics", timeout=30).text
    return next(float(line.split()[1]) for line in text.splitlines() if line.startswith(f"{name} "))


def concurrency(server: Server) -> float:
    """The requests in flight just now, as an autoscaler sees them."""
    first, start = metric(server, "doggos_request_seconds_total"), time.monotonic()
    time.sleep(0.1)
    return (metric(server, "doggos_request_seconds_total") - first) / (time.monotonic() - start)


def test_a_drain_under_load_loses_nothing(kind: Kind, tmp_path: Path) -> None:
    seen: list[int] = []
    with kind.start(tmp_path, 0.1, "--drain_seconds", "2") as server, grpc.insecure_channel(server.grpc) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        watches = [health.Watch(health_pb2.HealthCheckRequest(service=name)) for name in ("doggos", "doggos", "")]
        watches[0].next(), watches[0].cancel()  # one that leaves must not take the others along
        watcher = threading.Thread(target=lambda: seen.extend(answer.status for answer in watches[1]))
        watcher.start()
        idle = httpx.Client(timeout=30)
        assert idle.get(f"http://{server.http}/v2/health/live").headers.get("connection") != "close"
        with Traffic(server, kind.message, follow_health=True) as traffic:
            traffic.wait_for_more(10)
            server.process.send_signal(signal.SIGTERM)
            wait_until(lambda: ready(server) == 503, "not ready")
            check = health.Check(health_pb2.HealthCheckRequest(service="doggos"))
            assert check.status == STATUS.NOT_SERVING
            answer = infer(server, kind.message)
            assert (answer.status_code, answer.headers["connection"]) == (200, "close"), "still served"
            assert idle.get(f"http://{server.http}/v2/health/live").status_code == 200
            server.process.send_signal(signal.SIGTERM)  # some supervisors send it to the whole group, and again
            assert server.process.wait(30) == 0
        watcher.join(30)
    assert not traffic.bad, traffic.codes
    assert seen == [STATUS.SERVING, STATUS.NOT_SERVING]
    refuses_connections(server)


def refuses_connections(server: Server) -> None:
    for address in (server.http, server.grpc):
        host, port = address.split(":")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((host, int(port)))


def test_requests_in_flight_finish_while_new_ones_are_refused(kind: Kind, tmp_path: Path) -> None:
    hold, flags = tmp_path / "hold", ("--drain_seconds", "0", "--grace_seconds", "60", "--request_timeout", "60")
    with (
        kind.start(tmp_path, 0.0, *flags) as server,
        grpc.insecure_channel(server.grpc) as channel,
        ThreadPoolExecutor() as callers,
    ):
        hold.touch()
        stub = services.GRPCInferenceServiceStub(channel)
        over_rest, over_grpc = begin(server, kind.message, callers, stub)
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: is_refused(server.http) and is_refused(server.grpc), "closed ports")
        assert not over_rest.done() and not over_grpc.done()
        hold.unlink()
        assert over_rest.result().status_code == 200
        assert over_grpc.result() is not None
        assert server.process.wait(30) == 0


def is_refused(address: str) -> bool:
    host, port = address.split(":")
    try:
        socket.create_connection((host, int(port))).close()
    except ConnectionRefusedError:
        return True
    return False


def test_nothing_holds_the_end_back_beyond_the_grace(kind: Kind, tmp_path: Path) -> None:
    """A request of a minute, a body that never ends, an idle connection and a Watch; and an engine that is busy."""
    flags = ("--drain_seconds", "0", "--grace_seconds", "0.5", "--request_timeout", "60")
    with (
        kind.start(tmp_path, 60.0, *flags) as server,
        grpc.insecure_channel(server.grpc) as channel,
        ThreadPoolExecutor() as callers,
        httpx.Client() as idle,
    ):
        idle.get(f"http://{server.http}/v2/health/live")
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        watch.next()
        half = leave_rest(server, b"POST /v2/models/doggos/infer HTTP/1.1", b"{", "application/json", missing=9)
        over_rest, over_grpc = begin(server, kind.message, callers, services.GRPCInferenceServiceStub(channel))
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 0
        assert over_grpc.exception().code() in (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE)
        assert over_rest.result().status_code == 503
        assert over_rest.result().json() == {"error": "the server is stopping"}
        assert half.recv(20).startswith(b"HTTP/1.1 503")
        half.close()


def test_ctrl_c_twice_ends_at_once(kind: Kind, tmp_path: Path) -> None:
    flags = ("--drain_seconds", "60", "--grace_seconds", "60", "--request_timeout", "60")
    with (
        kind.start(tmp_path, 60.0, *flags) as server,
        grpc.insecure_channel(server.grpc) as channel,
        ThreadPoolExecutor() as callers,
    ):
        over_rest, _ = begin(server, kind.message, callers, services.GRPCInferenceServiceStub(channel))
        server.process.send_signal(signal.SIGINT)
        wait_until(lambda: ready(server) == 503, "not ready")
        with pytest.raises(subprocess.TimeoutExpired):
            server.process.wait(0.5)
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(30) == 0
        assert over_rest.result().status_code == 503


@pytest.mark.parametrize("module", ["predictor", "transformer"])
def test_sigterm_before_anything_is_loaded(module: str, tmp_path: Path) -> None:
    with program(module, ["--predictor_host", "127.0.0.1:9"] if module == "transformer" else [], tmp_path) as started:
        started.wait_until_it_catches(signal.SIGTERM)
        started.process.terminate()
        assert started.end(30) == 0
        assert started.lines == []


@pytest.mark.parametrize("module", ["tests.pretender", "transformer"])
def test_sigterm_while_loading(module: str, tmp_path: Path) -> None:
    """A thread that is busy with loading does not hold the end back."""
    port = free_port()
    flags = ["--http_port", str(port)]
    if module == "transformer":
        flags += ["--predictor_host", f"127.0.0.1:{free_port()}", "--index_dir", str(write_index(tmp_path / "index"))]
    else:
        flags += ["--load_seconds", "60"]
    with program(module, flags, tmp_path) as started:
        wait_until(lambda: not is_refused(f"127.0.0.1:{port}"), "an open port")
        url = f"http://127.0.0.1:{port}"
        assert httpx.get(f"{url}/v2/health/live").status_code == 200
        assert httpx.get(f"{url}/v2/models/doggos/ready").status_code == 503
        answer = httpx.post(f"{url}{INFER}", json={"inputs": []})
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        started.process.terminate()
        assert started.end(30) == 0
        assert started.output.read_text() == "", "it never was ready"
        assert "Traceback" not in started.log.read_text()
