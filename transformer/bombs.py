"""Picture files that are small but very expensive to open, told from their bytes before Pillow sees them.

Pillow itself refuses absurd sizes and texts; these are the cases it lets pass. Each limit is far above real pictures.
"""

import io
import re
from collections.abc import Iterable
from itertools import islice

import numpy as np
from PIL.JpegImagePlugin import MARKER

from serving.errors import InvalidRequest

# What is counted, and how often it may occur. An expression finds them in a third of count's time.
_MOST_IN_JPEG = (
    (re.compile(rb"\xff\xda"), 100),  # scans, each a pass over all pixels, as libtiff's limit
    (re.compile(rb"\xff\xe1"), 1000),  # EXIF segments, which Pillow joins in quadratic time
)
_EITHER_IN_JPEG = re.compile(rb"\xff[\xda\xe1]")  # in one pass, which is all that most files need
_MOST_IN_PNG = (
    (re.compile(rb"iCCP"), 8),  # colour profiles, each of which may inflate to a megabyte
    (re.compile(rb"TXt"), 16),  # texts that may be compressed: each may come to four megabytes
)

_MOST_READS = 300_000  # a PNG of 20 MB in chunks of 1 KB takes 80,000
_MOST_JPEG_STEPS = 10_000
_MOST_TIFF_VALUES = 200_000  # Pillow makes an object of each value, and a tile of each strip's offset
_MOST_TIFF_DIRECTORIES = 4
_TIFF_DIRECTORIES = (34665, 34853, 40965)  # tags that point to one: EXIF, GPS, interoperability
_TIFF_BYTES = (1, 2, 7)  # types whose values stay bytes
_TIFF_SHORTS = (3, 8)


def refuse_bombs(data: bytes) -> None:
    """Raise InvalidRequest for a file with far more parts than pictures have."""
    if data.startswith(b"\xff\xd8"):
        _refuse_jpeg(data)
    if data.startswith(b"\x89PNG"):
        _refuse_too_many(data, _MOST_IN_PNG)
    if data.startswith((b"II", b"MM")) and _count_tiff_values(data) > _MOST_TIFF_VALUES:
        raise InvalidRequest("the TIFF has too many strips, tiles or tags; save it again with another program")


def _refuse_jpeg(data: bytes) -> None:
    if _has_more(data, _EITHER_IN_JPEG, min(most for _, most in _MOST_IN_JPEG)):
        _refuse_too_many(data, _MOST_IN_JPEG)
    if find_scan(data)[1] > _MOST_JPEG_STEPS:
        raise InvalidRequest("the JPEG has too many markers or bytes between them; save it again with another program")


def _refuse_too_many(data: bytes, kinds: Iterable[tuple[re.Pattern[bytes], int]]) -> None:
    for part, most in kinds:
        if _has_more(data, part, most):
            raise InvalidRequest(
                f"the picture has more than {most} parts of one kind; save it again with another program"
            )


def _has_more(data: bytes, part: re.Pattern[bytes], most: int) -> bool:
    return any(islice(part.finditer(data), most, None))


class Pieces(io.BytesIO):
    """A picture's bytes, which Pillow reads in Python chunk by chunk (PNG) or block by block (GIF), in bounded time."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._left = _MOST_READS

    def read(self, size: int | None = -1, /) -> bytes:
        """As of any file; raises InvalidRequest where there are far more pieces than pictures have."""
        self._left -= 1
        if self._left < 0:
            raise InvalidRequest("the picture is in too many small pieces; save it again with another program")
        return super().read(size)


def find_scan(data: bytes) -> tuple[int, int]:
    """Where a JPEG's first scan begins, as Pillow finds it, and in how many steps in Python: markers, and bytes that
    belong to none; not found if there are too many."""
    at, steps = 2, 0
    while steps <= _MOST_JPEG_STEPS:
        marker = data.find(b"\xff", at)
        steps += 1 + (len(data) if marker < 0 else marker) - at
        if marker < 0 or data[marker + 1 : marker + 2] == b"\xda":
            return marker, steps
        code = int.from_bytes(data[marker : marker + 2])
        _, _, handler = MARKER.get(code, ("", "", None))
        skipped = int.from_bytes(data[marker + 2 : marker + 4]) if handler else 0
        at = marker + (1 if code == 0xFFFF else 2) + skipped
    return -1, steps


def _count_tiff_values(data: bytes) -> float:
    """How many values the directories that Pillow reads say they have; infinite if there are too many directories."""
    order, big = ("little", "<") if data.startswith(b"II") else ("big", ">"), 43 in data[2:4]
    wide = 8 if big else 4
    entry = np.dtype(
        [("tag", f"{order[1]}u2"), ("kind", f"{order[1]}u2"), ("count", f"{order[1]}u{wide}"), ("value", f"V{wide}")]
    )

    def read(at: int, length: int) -> int:
        return int.from_bytes(data[at : at + length], order[0])  # type: ignore[arg-type]

    waiting, seen, values = [read(8 if big else 4, wide)], set[int](), 0.0
    while waiting and len(seen) <= _MOST_TIFF_DIRECTORIES:
        at = waiting.pop()
        seen.add(at)
        first, number = at + (8 if big else 2), read(at, 8 if big else 2)
        if first + number * entry.itemsize > len(data):
            continue  # cut short: Pillow leaves it as well
        entries = np.frombuffer(data, entry, number, first)
        values += float(entries["count"][~np.isin(entries["kind"], _TIFF_BYTES)].sum(dtype=np.float64))
        for i in np.flatnonzero(np.isin(entries["tag"], _TIFF_DIRECTORIES)):
            to = read(first + int(i) * entry.itemsize + 4 + wide, 2 if entries["kind"][i] in _TIFF_SHORTS else wide)
            waiting += [] if to in seen else [to]
    return float("inf") if waiting else values
