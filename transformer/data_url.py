"""Pictures that are written into the URL itself: data:image/png;base64,..."""

import asyncio
import base64
import re
from collections.abc import Iterable, Iterator
from string import hexdigits

import numpy as np

from serving.errors import InvalidRequest, OutOfRange, TooLarge

_HEADER = re.compile(r"data:(?P<type>[^,;]*)(?P<parameters>(?:;[^,;]*)*),", re.IGNORECASE)
_LONGEST_HEADER = 1024
_WINDOW = 1 << 16  # characters decoded before other requests get their turn
_SPACES = b" \t\r\n\f"

_NO_DIGIT = 16
_HEX = np.array([int(chr(c), 16) if chr(c) in hexdigits else _NO_DIGIT for c in range(256)], np.uint8)


def is_data_url(url: str) -> bool:
    """True for the data: scheme in any case."""
    return url[:5].lower() == "data:"


async def decode_data_url(url: str, max_bytes: int) -> bytes:
    """The bytes in a data: URL; raises OutOfRange (not a picture), TooLarge or InvalidRequest (malformed)."""
    header = _HEADER.match(url[:_LONGEST_HEADER])
    if header is None or not url.isascii():
        raise InvalidRequest("the data: URL is malformed: use data:image/TYPE;base64,DATA")
    if not header["type"].strip().lower().startswith("image/"):
        raise OutOfRange("the data: URL does not hold a picture: its type must be image/*")
    pieces = _unescape(url, header.end())
    if not header["parameters"].lower().replace(" ", "").endswith(";base64"):
        return await _join(pieces, max_bytes)
    text = await _join((piece.translate(None, _SPACES) for piece in pieces), (max_bytes + 2) // 3 * 4)
    return await _join(_decode_base64(text), max_bytes)


async def _join(pieces: Iterable[bytes], max_bytes: int) -> bytes:
    joined = bytearray()
    for piece in pieces:
        joined += piece
        if len(joined) > max_bytes:
            raise TooLarge("the data: URL holds more bytes than a picture may have")
        await asyncio.sleep(0)
    return bytes(joined)


def _unescape(url: str, start: int) -> Iterator[bytes]:
    while start < len(url):
        end = start + _WINDOW
        split = url.rfind("%", end - 2, end)  # never cut an escape in two
        end = end if split < 0 else split
        yield _decode_escapes(url[start:end].encode())
        start = end


def _decode_escapes(text: bytes) -> bytes:
    # urllib's unquote_to_bytes takes seconds for the millions of escapes that a request may hold
    characters = np.frombuffer(text + b"  ", np.uint8)
    at = np.flatnonzero(characters == ord("%"))
    high, low = _HEX[characters[at + 1]], _HEX[characters[at + 2]]
    valid = (high < _NO_DIGIT) & (low < _NO_DIGIT)
    at, decoded, kept = at[valid], characters.copy(), np.ones(len(characters), bool)
    decoded[at] = high[valid] * 16 + low[valid]
    kept[at + 1] = kept[at + 2] = kept[-2:] = False
    return decoded[kept].tobytes()


def _decode_base64(text: bytes) -> Iterator[bytes]:
    text = text.rstrip(b"=")
    text += b"=" * (-len(text) % 4)
    try:
        for start in range(0, len(text), _WINDOW):
            yield base64.b64decode(text[start : start + _WINDOW], validate=True)
    except ValueError:
        raise InvalidRequest("the data: URL's base64 is malformed") from None
