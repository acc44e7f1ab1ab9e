"""A small HTTP server for tests, whose paths say how it behaves.

    async with PictureHost({"/dog.jpg": data}) as host:            # in the running event loop
    with run_picture_host({"/dog.jpg": data}) as host:             # in a thread of its own
        host.url("/dog.jpg")                                       # http://127.0.0.1:PORT/dog.jpg

A path of `pictures` is answered with its bytes, one of `answers` with exactly its bytes. Otherwise:
    /status/CODE  /redirect/CODE/LOCATION  /later/SECONDS/PATH
    /MODE/PATH    with a MODE of WRAPPED sends the picture of PATH in that form
    /MODE         with a MODE of SCRIPTS misbehaves; so does /reset
Anything else is a 404. `connections` and `requests` say what came in.
"""

import asyncio
import contextlib
import gzip
import socket
import ssl
import struct
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Self

from multidict import CIMultiDict

DRIP = 0.02  # seconds between two pieces of a slow host


def answer(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    """One whole answer."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


def gzip_bomb(size: int) -> bytes:
    """Few bytes that decompress to `size` of them."""
    squeeze = zlib.compressobj(9, wbits=31)
    return b"".join(squeeze.compress(bytes(1 << 20)) for _ in range(size >> 20)) + squeeze.flush()


WRAPPED: dict[str, Callable[[bytes], bytes]] = {
    "cookie": lambda body: answer(body, "Set-Cookie: a=b; Path=/"),
    "chunked": lambda body: (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    ),
    "gzip": lambda body: answer(gzip.compress(body), "Content-Encoding: gzip"),
    "deflate": lambda body: answer(zlib.compress(body), "Content-Encoding: deflate"),
    "cut-gzip": lambda body: answer(gzip.compress(body)[:-9], "Content-Encoding: gzip"),
    "two-gzips": lambda body: answer(gzip.compress(body) * 2, "Content-Encoding: gzip"),
    "not-gzip": lambda body: answer(body, "Content-Encoding: gzip"),
    "brotli": lambda body: answer(body, "Content-Encoding: br"),
    "gzip-gzip": lambda body: answer(gzip.compress(gzip.compress(body)), "Content-Encoding: gzip, gzip"),
}


@dataclass(frozen=True)
class Script:
    """What a misbehaving host sends: a start, then a piece again and again, or nothing more; then it closes."""

    start: bytes = b""
    again: bytes = b""
    pause: float = 0.0
    hangs: bool = False


_OK = b"HTTP/1.1 200 OK\r\n"
SCRIPTS = {
    "close": Script(),
    "silent": Script(hangs=True),
    "stall": Script(_OK + b"Content-Length: 1000\r\n\r\nabc", hangs=True),
    "huge": Script(_OK + b"Content-Length: 1000000000000\r\n\r\nabc", hangs=True),
    "short": Script(_OK + b"Content-Length: 1000\r\n\r\nabc"),
    "until-close": Script(_OK + b"\r\nabc"),
    "garbage": Script(bytes(range(256)) * 16),
    "drip": Script(_OK + b"Content-Length: 100000\r\n\r\n", b"x", DRIP),
    "drip-head": Script(_OK + b"X-Slow: ", b"x", DRIP),
    "endless": Script(_OK + b"Transfer-Encoding: chunked\r\n\r\n", b"2000\r\n%s\r\n" % bytes(0x2000)),
    "endless-until-close": Script(_OK + b"\r\n", bytes(0x2000)),
    "endless-nothing": Script(_OK + b"Content-Encoding: deflate\r\n\r\n\x78\x9c", b"\0\0\0\xff\xff" * 1000),
    "endless-head": Script(_OK, b"X-More: 1\r\n" * 50),
    "endless-line": Script(_OK + b"X-Long: ", b"x" * 1000),
    "endless-continue": Script(b"", b"HTTP/1.1 100 Continue\r\n\r\n", DRIP),
    "endless-hints": Script(b"", b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n" * 50),
}


class PictureHost:
    """Listens on a free port of 127.0.0.1 (and speaks TLS with `tls`)."""

    def __init__(self, pictures: Mapping[str, bytes] | None = None, tls: ssl.SSLContext | None = None) -> None:
        self.pictures = dict(pictures or {})
        self.answers: dict[str, bytes] = {}  # path to everything that is sent, status line included
        self.connections = 0
        self.requests: list[tuple[str, CIMultiDict[str]]] = []  # request target and headers
        self.port = 0
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        """The URL of a path; `host` may be any name that the test's resolver sends here."""
        return f"http{'s' if self._tls else ''}://{host}:{self.port}{path}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0)  # the connections close

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while not writer.is_closing():
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                target = head[0].split(" ")[1]
                self.requests.append((target, _headers(head[1:])))
                await self._reply(target, writer)
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass  # the client went away
        finally:
            writer.close()

    async def _reply(self, target: str, writer: asyncio.StreamWriter) -> None:
        mode, _, rest = target[1:].partition("/")
        if target in self.answers:
            writer.write(self.answers[target])
            writer.close()
        elif mode in SCRIPTS:
            await _play(SCRIPTS[mode], writer)
        elif mode == "reset":
            await _reset(writer)
        else:
            writer.write(await self._answer(target, mode, rest))

    async def _answer(self, target: str, mode: str, rest: str) -> bytes:
        if mode == "later":
            seconds, _, rest = rest.partition("/")
            await asyncio.sleep(float(seconds))
        if mode == "redirect":
            status, _, location = rest.partition("/")
            return answer(b"moved", f"Location: {location}", status=f"{status} Moved")
        body = self.pictures.get("/" + rest if mode in ("later", *WRAPPED) else target)
        if mode == "status" or body is None:
            return answer(b"sorry", status=f"{rest if mode == 'status' else 404} Sorry")
        return WRAPPED[mode](body) if mode in WRAPPED else answer(body)


def _headers(lines: list[str]) -> CIMultiDict[str]:
    return CIMultiDict((name, value) for name, _, value in (line.partition(": ") for line in lines if line))


@contextlib.contextmanager
def run_picture_host(pictures: Mapping[str, bytes]) -> Iterator[PictureHost]:
    """A PictureHost in a thread of its own, for tests without an event loop."""
    host, loop = PictureHost(pictures), asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    asyncio.run_coroutine_threadsafe(host.__aenter__(), loop).result(10)
    try:
        yield host
    finally:
        asyncio.run_coroutine_threadsafe(host.__aexit__(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


async def _play(script: Script, writer: asyncio.StreamWriter) -> None:
    writer.write(script.start)
    while script.again and not writer.is_closing():
        writer.write(script.again)
        await writer.drain()
        await asyncio.sleep(script.pause)
    await asyncio.sleep(60 if script.hangs else 0)
    writer.close()


async def _reset(writer: asyncio.StreamWriter) -> None:
    writer.write(SCRIPTS["short"].start)
    await writer.drain()
    link: socket.socket = writer.get_extra_info("socket")
    link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
