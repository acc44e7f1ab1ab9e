"""Sends requests at a fixed rate, or a number at a time, until all are answered, and costs next to nothing itself.

A client of ours because it shares the machine: a library's would take a third of it at the rates of an overload.
"""

import asyncio
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

LOST = 0  # the status of a request whose connection broke, or that was not answered in time
PATIENCE = 300.0  # seconds for an answer: the slowest system takes some 230


@dataclass
class Outcome:
    """What became of the requests of one rate; milliseconds by status."""

    offered: float
    seconds: float
    taken: dict[int, list[float]] = field(default_factory=dict)

    def add(self, status: int, milliseconds: float) -> None:
        self.taken.setdefault(status, []).append(milliseconds)

    @property
    def goodput(self) -> float:
        """Good answers per second."""
        return len(self.taken.get(200, ())) / self.seconds


def encode_post(host: str, route: str, content_type: str, body: bytes) -> bytes:
    """A whole request."""
    head = f"POST {route} HTTP/1.1\r\nhost: {host}\r\ncontent-type: {content_type}\r\ncontent-length: {len(body)}"
    return f"{head}\r\n\r\n".encode() + body


def encode_get(host: str, route: str) -> bytes:
    """A whole request without a body."""
    return f"GET {route} HTTP/1.1\r\nhost: {host}\r\n\r\n".encode()


class Connection(asyncio.Protocol):
    """Asks one thing at a time over HTTP/1.1."""

    def __init__(self, idle: "list[Connection]") -> None:
        self._idle, self._received, self._wanted, self._status = idle, bytearray(), -1, LOST
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[int] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def ask(self, request: bytes) -> "asyncio.Future[int]":
        """Send it; the future has the status of the answer."""
        assert self._transport
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._answer

    def close(self) -> None:
        """End it."""
        if self._transport:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self._wanted < 0 and (end := self._received.find(b"\r\n\r\n")) >= 0:
            head = bytes(self._received[:end]).lower()
            self._status = int(head[9:12])
            self._wanted = end + 4 + int(head.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
        if 0 <= self._wanted <= len(self._received):
            self._received.clear()
            self._wanted = -1
            self._idle.append(self)
            self._settle(self._status)

    def connection_lost(self, exc: Exception | None) -> None:
        if self in self._idle:
            self._idle.remove(self)
        self._settle(LOST)

    def _settle(self, status: int) -> None:
        if self._answer and not self._answer.done():
            self._answer.set_result(status)


class OpenLoop:
    """A client of one server, with as many connections as it needs."""

    def __init__(self, address: str, requests: Sequence[bytes]) -> None:
        """`requests` are sent in turn: see encode_post."""
        self._host, port = address.rsplit(":", 1)
        self._port, self._idle, self._requests = int(port), list[Connection](), itertools.cycle(requests)

    async def offer(self, rate: float, seconds: float) -> Outcome:
        """Requests at `rate`, and their answers, however long these take."""
        outcome, begin = Outcome(rate, seconds), time.perf_counter()
        tasks = []
        for number in range(int(rate * seconds)):
            await asyncio.sleep(max(0.0, begin + number / rate - time.perf_counter()))
            tasks.append(asyncio.create_task(self._ask(outcome)))
        await asyncio.gather(*tasks)
        outcome.seconds = max(seconds, time.perf_counter() - begin)  # with the queue that was left at the end
        return outcome

    async def find_capacity(self, at_once: int, seconds: float) -> Outcome:
        """What it answers to `at_once` callers who wait for each answer before they ask again, each once at least."""
        begin = time.perf_counter()
        outcome, end = Outcome(0, seconds), begin + seconds

        async def keep_asking() -> None:
            while await self._ask(outcome) != LOST and time.perf_counter() < end:
                pass

        await asyncio.gather(*(keep_asking() for _ in range(at_once)))
        outcome.seconds = time.perf_counter() - begin
        return outcome

    async def close(self) -> None:
        """End the connections; it may be asked again, over new ones."""
        for connection in self._idle:
            connection.close()
        self._idle.clear()

    async def _ask(self, outcome: Outcome) -> int:
        begin, connection = time.perf_counter(), None
        try:
            async with asyncio.timeout(PATIENCE):
                connection = self._idle.pop() if self._idle else await self._connect()
                status = await connection.ask(next(self._requests))
        except OSError:  # TimeoutError is one
            status = LOST
            if connection:  # whose answer may still come
                connection.close()
        outcome.add(status, 1000 * (time.perf_counter() - begin))
        return status

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(lambda: Connection(self._idle), self._host, self._port)
        return connection
