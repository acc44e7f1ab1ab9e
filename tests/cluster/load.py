"""Callers at the front door, over REST and gRPC, on connections that last and on one for each request."""

import io
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Self

import grpc
import httpx
from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc as services

from dogs import BREEDS, draw_dog
from serving.grpc_codec import decode_response
from tests.callers import grpc_request, wait_until

Ask = Callable[[], tuple[str, ...]]
SECONDS = 60.0  # that a caller waits at most


def draw_picture() -> bytes:
    """One dog, as JPEG."""
    file = io.BytesIO()
    draw_dog(BREEDS["rose_retriever"], "cluster").save(file, "JPEG")
    return file.getvalue()


@dataclass(frozen=True)
class Door:
    """Where an InferenceService is reached: the gateway's address, and the host name it goes by."""

    address: str
    host: str
    picture: bytes = field(default_factory=draw_picture, repr=False)

    @contextmanager
    def rest(self) -> Iterator[Ask]:
        with httpx.Client(base_url=f"http://{self.address}", headers={"host": self.host}, timeout=SECONDS) as client:
            yield lambda: self._ask_rest(client)

    def _ask_rest(self, client: httpx.Client) -> tuple[str, ...]:
        kind = {"content-type": "image/jpeg"}
        answer = client.post("/predict/?k=2&n=3", content=self.picture, headers=kind)
        if answer.status_code != 200:
            raise RuntimeError(f"{answer.status_code} {answer.text[:200]}")
        return tuple(match["path"] for match in answer.json()["top_matches"])

    @contextmanager
    def grpc(self) -> Iterator[Ask]:
        options = [("grpc.default_authority", self.host), ("grpc.use_local_subchannel_pool", 1)]
        message = grpc_request([self.picture])
        message.parameters["k"].int64_param, message.parameters["n"].int64_param = 2, 3
        with grpc.insecure_channel(self.address, options) as channel:
            stub = services.GRPCInferenceServiceStub(channel)
            yield lambda: _read_paths(stub.ModelInfer(message, timeout=SECONDS))

    def ask(self) -> tuple[str, ...]:
        """The three most similar pictures."""
        with self.rest() as ask:
            return ask()


def _read_paths(answer: Any) -> tuple[str, ...]:
    paths = next(tensor.array for tensor in decode_response(answer, {}).outputs if tensor.name == "match_path")
    return tuple(path.decode() for path in paths[0])


@dataclass(frozen=True)
class Reply:
    """What one request came to; `error` is empty for the right answer."""

    caller: str
    begin: float
    seconds: float
    error: str


@dataclass
class Load:
    """Callers of each kind from the block's begin to its end, at `rate` requests/s in all, or as fast as they can."""

    door: Door
    expected: tuple[str, ...]
    rate: float = 0.0
    each: int = 3  # callers of a kind
    replies: list[Reply] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._stop = threading.Event()
        self.begin = time.monotonic()
        kinds = [(protocol, fresh) for protocol in ("rest", "grpc") for fresh in (False, True)] * self.each
        self._pause = len(kinds) / self.rate if self.rate else 0.0
        self._threads = [threading.Thread(target=self._call, args=kind, daemon=True) for kind in kinds]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(SECONDS)
        self.seconds = time.monotonic() - self.begin

    def wait_for(self, count: int, timeout: float = 300) -> None:
        """Wait until so many requests have ended since the begin."""
        wait_until(lambda: len(self.replies) >= count, f"{count} replies", timeout)

    def settle(self) -> None:
        """Go on for a while after what was done to the service."""
        self.wait_for(len(self.replies) + 100)

    @property
    def failed(self) -> Counter[tuple[str, str]]:
        return Counter((reply.caller, reply.error) for reply in self.replies if reply.error)

    @property
    def slowest(self) -> float:
        return max(reply.seconds for reply in self.replies)

    def _call(self, protocol: str, fresh: bool) -> None:
        name = f"{protocol} {'fresh' if fresh else 'lasting'}"
        connect = getattr(self.door, protocol)
        turns = self._turns()
        while next(turns):
            with connect() as ask:
                self._note(name, ask)
                while not fresh and next(turns):
                    self._note(name, ask)

    def _turns(self) -> Iterator[bool]:
        """True when it is time for the next request, False at the end; what was late is caught up."""
        due = time.monotonic()
        while not self._stop.wait(max(due - time.monotonic(), 0)):
            yield True
            due += self._pause
        while True:
            yield False

    def _note(self, name: str, ask: Ask) -> None:
        begin, error = time.monotonic(), ""
        try:
            paths = ask()
            error = "" if paths == self.expected else f"another answer: {paths}"
        except grpc.RpcError as lost:
            error = f"{lost.code().name} {lost.details()}"
        except (httpx.TransportError, RuntimeError) as lost:
            error = f"{type(lost).__name__} {lost}"
        seconds = time.monotonic() - begin
        self.replies.append(Reply(name, begin - self.begin, seconds, error))
