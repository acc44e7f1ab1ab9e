"""Callers that ask a transformer or a predictor again and again, over both protocols, and note every answer."""

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

import grpc
import httpx
import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc
from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc as services

from launch import Server
from tests.callers import INFER, binary_body, grpc_request, wait_until
from tests.stand_ins import draw


@dataclass(frozen=True)
class Reply:
    """What one request came to."""

    protocol: str
    code: int | str
    seconds: float
    error: str = ""


@dataclass
class Traffic:
    """`workers` callers for each protocol, from the block's begin to its end.

    With `follow_health` a caller asks whether the server takes work before it sends some, and ends when it does not.
    """

    server: Server
    message: Any = field(default_factory=lambda: grpc_request([draw("red")]))
    workers: int = 3
    follow_health: bool = False
    replies: list[Reply] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._stop = threading.Event()
        callers = [self._call_http] * self.workers + [self._call_grpc] * self.workers
        self._threads = [threading.Thread(target=caller, daemon=True) for caller in callers]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def wait_for_more(self, count: int = 30, timeout: float = 60) -> None:
        """Wait until there are `count` replies of each protocol more than now."""
        before = Counter(reply.protocol for reply in self.replies)

        def come() -> bool:
            now = Counter(reply.protocol for reply in self.replies)
            return all(now[protocol] - before[protocol] >= count for protocol in ("http", "grpc"))

        wait_until(come, f"{count} more replies", timeout)

    @property
    def codes(self) -> Counter[tuple[int | str, str]]:
        """How often each code came, with its sentence."""
        return Counter((reply.code, reply.error) for reply in self.replies)

    @property
    def bad(self) -> list[Reply]:
        """Replies that are no answers."""
        return [reply for reply in self.replies if reply.code not in (200, "OK")]

    def _call_http(self) -> None:
        body, headers = binary_body(self.message)
        with httpx.Client(base_url=f"http://{self.server.http}", timeout=60) as client:
            while not self._stop.is_set():
                if self.follow_health and client.get("/v2/models/doggos/ready").status_code != 200:
                    return
                begin = time.monotonic()
                try:
                    answer = client.post(INFER, content=body, headers=headers)
                    code, error = answer.status_code, "" if answer.status_code == 200 else answer.text
                except httpx.TransportError as lost:
                    code, error = 0, repr(lost)
                self.replies.append(Reply("http", code, time.monotonic() - begin, error))

    def _call_grpc(self) -> None:
        with grpc.insecure_channel(self.server.grpc, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            stub = services.GRPCInferenceServiceStub(channel)
            health = health_pb2_grpc.HealthStub(channel)
            while not self._stop.is_set():
                if self.follow_health and not _is_serving(health):
                    return
                begin = time.monotonic()
                try:
                    stub.ModelInfer(self.message, timeout=60)
                    code, error = "OK", ""
                except grpc.RpcError as lost:
                    code, error = lost.code().name, lost.details()
                self.replies.append(Reply("grpc", code, time.monotonic() - begin, error))


def _is_serving(health: Any) -> bool:
    answer = health.Check(health_pb2.HealthCheckRequest(service="doggos"), timeout=30)
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


@dataclass
class Probes:
    """Asks a server for health, readiness and metrics again and again, as a cluster does, and times the answers."""

    server: Server
    seconds: list[float] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._probe, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(60)

    @property
    def p99(self) -> float:
        """The time that 99 of 100 answers did not take, in seconds."""
        return float(np.quantile(self.seconds, 0.99))

    def _probe(self) -> None:
        http, metrics = f"http://{self.server.http}", f"http://{self.server.metrics}/metrics"
        urls = [f"{http}/v2/health/live", f"{http}/v2/models/doggos/ready", metrics]
        with httpx.Client(timeout=60) as client, grpc.insecure_channel(self.server.grpc) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            while not self._stop.wait(0.05):
                for url in urls:
                    self._time(url, lambda url=url: client.get(url).status_code == 200)  # type: ignore[misc]
                self._time("grpc.health.v1", lambda: _is_serving(health))

    def _time(self, name: str, check: Callable[[], bool]) -> None:
        begin = time.monotonic()
        if not check():
            self.failed.append(name)
        self.seconds.append(time.monotonic() - begin)
