"""The body of a host's answer, capped while it is read and while it is decompressed."""

import asyncio
import zlib
from collections.abc import Iterator
from typing import Protocol

import aiohttp

from serving.errors import FetchFailed, TooLarge
from serving.held import ByteBudget, HeldBytes, Share

_WINDOW_BITS = {"gzip": 31, "x-gzip": 31, "deflate": 15}  # zlib's numbers for the formats
_PIECE = 1 << 20  # bytes decompressed before other requests get their turn
_BROKEN = "the picture's host answered with broken compression"


async def read_body(response: aiohttp.ClientResponse, max_bytes: int, held: ByteBudget) -> HeldBytes:
    """All bytes, which count as held from when they come until nothing refers to them any more.

    Raises TooLarge as soon as there are more than `max_bytes`, QueueFull when all that is held is too much, and
    FetchFailed when they make no sense.
    """
    share = held.open()
    try:
        return HeldBytes.of(await _read(response, max_bytes, share), share)
    except BaseException:  # whose traceback may live on
        share.close()
        raise


async def _read(response: aiohttp.ClientResponse, max_bytes: int, share: Share) -> bytearray:
    _check_size(response.content_length or 0, max_bytes)
    decoder = _choose_decoder(response.headers.get("Content-Encoding", "").strip().lower())
    body, received = bytearray(), 0
    async for chunk in response.content.iter_any():
        received += len(chunk)
        _check_size(received, max_bytes)  # compressed bytes too: endless ones can decompress to none
        for piece in decoder.decode(chunk):
            _check_size(len(body) + len(piece), max_bytes)
            share.take(len(piece))
            body += piece
            await asyncio.sleep(0)
    decoder.finish()
    return body


class _Decoder(Protocol):
    def decode(self, chunk: bytes) -> Iterator[bytes]: ...

    def finish(self) -> None: ...


class _Identity:
    def decode(self, chunk: bytes) -> Iterator[bytes]:
        yield chunk

    def finish(self) -> None:
        pass


class _Inflater:
    """Decompresses piece by piece, so that a bomb is found before it is unpacked."""

    def __init__(self, window_bits: int) -> None:
        self._zlib = zlib.decompressobj(window_bits)

    def decode(self, chunk: bytes) -> Iterator[bytes]:
        try:
            while chunk:  # the checksum at the end is left over until everything before it has been given out
                yield self._zlib.decompress(chunk, _PIECE)
                chunk = self._zlib.unconsumed_tail
        except zlib.error:
            raise FetchFailed(_BROKEN) from None

    def finish(self) -> None:
        if not self._zlib.eof or self._zlib.unused_data:
            raise FetchFailed(_BROKEN)


def _choose_decoder(encoding: str) -> _Decoder:
    if encoding in ("", "identity"):
        return _Identity()
    if encoding not in _WINDOW_BITS:
        raise FetchFailed("the picture's host answered in a compression that was not asked for")
    return _Inflater(_WINDOW_BITS[encoding])


def _check_size(size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise TooLarge(f"the picture has more than {max_bytes} bytes")
