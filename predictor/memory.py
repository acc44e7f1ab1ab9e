"""What a model needed only while it was loaded goes back to the system."""

import contextlib
import ctypes
import mmap
from collections.abc import Iterator
from pathlib import Path


def return_freed() -> None:
    """Give back what is free already: glibc would keep it for allocations that do not come."""
    with contextlib.suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def release_pages(file: Path) -> None:
    """Give back the pages of a `file` that is mapped to be read; those that are read again come from it again."""
    with contextlib.suppress(AttributeError, OSError):  # not Linux
        advise, forget = ctypes.CDLL(None).madvise, mmap.MADV_DONTNEED
        for begin, end in _find_mappings(file):
            advise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), forget)


def _find_mappings(file: Path) -> Iterator[tuple[int, int]]:
    """Begin and end of each that cannot be written to, as one that can may differ from its file."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        addresses, permissions, _, _, _, *path = line.split(maxsplit=5)
        if path == [str(file.resolve())] and "w" not in permissions:
            begin, _, end = addresses.partition("-")
            yield int(begin, 16), int(end, 16)
