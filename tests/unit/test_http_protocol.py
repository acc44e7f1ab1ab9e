"""Callers that hold a connection without asking anything."""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any, cast

import pytest

from serving.http_protocol import LostTransport
from serving.http_server import build_server, listen

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


async def _answer(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body"})


@pytest.fixture(scope="module")
def address() -> Iterator[tuple[str, int]]:
    """A server that closes a connection after a second without a request."""
    listener = listen("127.0.0.1", 0, "http_port")
    server = build_server(_answer, 60, 0)
    server.config.timeout_keep_alive = 1
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])))
    thread.start()
    yield listener.getsockname()
    server.should_exit = True
    thread.join(30)


@pytest.mark.parametrize("begin", [b"", GET], ids=["from the start", "after a request"])
def test_line_breaks_do_not_keep_a_connection(address: tuple[str, int], begin: bytes) -> None:
    with socket.create_connection(address) as caller:
        caller.sendall(begin)
        assert begin == b"" or caller.recv(4096).startswith(b"HTTP/1.1 204")
        caller.settimeout(0.2)
        end = time.monotonic() + 30
        while time.monotonic() < end:
            try:
                caller.sendall(b"\r\n")
                assert caller.recv(1) == b""
                return
            except TimeoutError:
                continue
            except ConnectionError:
                return
    raise AssertionError("still open")


def test_line_breaks_before_a_request_are_no_harm(address: tuple[str, int]) -> None:
    with socket.create_connection(address) as caller:
        for _ in range(3):
            caller.sendall(b"\r\n")
            caller.sendall(b"\r\n" + GET)
            assert caller.recv(4096).startswith(b"HTTP/1.1 204")


def test_an_answer_to_a_lost_connection_is_no_error() -> None:
    """uvloop's transports raise in the moment between the loss and the word of it."""

    class Lost:
        def is_closing(self) -> bool:
            return True

        def write(self, data: bytes) -> None:
            raise RuntimeError("the handler is closed")

    LostTransport(cast(asyncio.Transport, Lost())).write(b"HTTP/1.1 200 OK")
