"""`python -m benchmarks.picture_host FOLDER`: a web server that costs next to nothing, for a folder of pictures."""

import asyncio
import sys
from pathlib import Path
from typing import cast

import uvloop


class PictureHost(asyncio.Protocol):
    """Answers `GET /NAME` from memory, over connections that stay open."""

    def __init__(self, answers: dict[bytes, bytes]) -> None:
        self._answers = answers
        self._transport: asyncio.Transport | None = None
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        assert self._transport
        self._received += data
        while b"\r\n\r\n" in self._received:
            head, self._received = self._received.split(b"\r\n\r\n", 1)
            name = head.split(b" ", 2)[1].lstrip(b"/")
            self._transport.write(self._answers.get(name, b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"))


def read_answers(folder: Path) -> dict[bytes, bytes]:
    """Whole HTTP answers, by file name."""
    answers = {}
    for path in folder.iterdir():
        body = path.read_bytes()
        head = f"HTTP/1.1 200 OK\r\ncontent-type: image/jpeg\r\ncontent-length: {len(body)}\r\n\r\n"
        answers[path.name.encode()] = head.encode() + body
    return answers


async def serve(folder: Path) -> None:
    """Serve on a free port of loopback until the process is ended; prints HOST:PORT."""
    answers = read_answers(folder)
    server = await asyncio.get_running_loop().create_server(lambda: PictureHost(answers), "127.0.0.1", 0)
    print(f"127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(Path(sys.argv[1])))
