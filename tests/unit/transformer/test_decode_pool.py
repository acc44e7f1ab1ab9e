"""Large pictures wait for memory, small ones do not, and what was taken always comes back."""

import asyncio
import io
import os
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from serving.deadline import Deadline
from serving.errors import DeadlineExceeded, QueueFull, TooLarge
from tests.pictures import tiff
from transformer.decode import MemoryNeeded, decode
from transformer.decode_pool import MAX_LARGE, SMALL, DecodeMemory, DecodePool
from transformer.thumbnail import make_thumbnail

LARGE = 2 * SMALL
LATER = Deadline.after(1e6)


def needing(amount: int, work: Callable[[], object]) -> Callable[[int], object]:
    def run(room: int) -> object:
        if amount > room:
            raise MemoryNeeded(amount)
        return work()

    return run


async def let_run(rounds: int = 50) -> None:
    for _ in range(rounds):
        await asyncio.sleep(0.001)


def test_a_large_picture_waits_outside_of_the_threads() -> None:
    async def main() -> None:
        memory, go = DecodeMemory(LARGE), threading.Event()
        pools = [DecodePool("decode", 2, 4, memory), DecodePool("preview", 2, 4, memory)]
        large = [asyncio.create_task(pool.decode(needing(LARGE, go.wait), LATER)) for pool in (*pools, *pools)]
        await let_run()
        assert memory.taken == LARGE
        assert await pools[0].decode(needing(SMALL, lambda: "small"), LATER) == "small"
        with pytest.raises(DeadlineExceeded):
            await pools[1].decode(needing(LARGE, go.wait), Deadline.after(0.1))
        go.set()
        assert await asyncio.gather(*large) == [True] * 4
        await let_run()
        assert memory.taken == 0

    asyncio.run(main())


def test_memory_comes_back_whatever_becomes_of_the_caller() -> None:
    async def main() -> None:
        memory, go = DecodeMemory(LARGE), threading.Event()
        pool = DecodePool("decode", 1, 4, memory)
        running = asyncio.create_task(pool.decode(needing(LARGE, go.wait), LATER))
        await let_run()
        waiting = [asyncio.create_task(pool.decode(needing(amount, go.wait), LATER)) for amount in (LARGE, LARGE // 2)]
        await let_run()
        for task in (running, waiting[0]):
            task.cancel()
        await let_run()
        assert memory.taken == LARGE, "the thread still decodes"
        go.set()
        assert await waiting[1]
        with pytest.raises(ZeroDivisionError):
            await pool.decode(needing(LARGE, lambda: 1 / 0), LATER)
        with pytest.raises(TooLarge, match="more memory"):
            await pool.decode(needing(LARGE + 1, go.wait), LATER)
        await let_run()
        assert memory.taken == 0

    asyncio.run(main())


def test_too_many_large_pictures_are_refused() -> None:
    async def main() -> None:
        memory = DecodeMemory(1)
        await memory.take(1, LATER)
        waiting = [asyncio.create_task(memory.take(1, LATER)) for _ in range(MAX_LARGE)]
        await let_run(3)
        with pytest.raises(QueueFull):
            await memory.take(1, LATER)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        memory.give_back(1)
        await memory.take(1, LATER)
        assert memory.taken == 1

    asyncio.run(main())


def encode(mode: str, kind: str, size: tuple[int, int] = (2000, 1500), **options: object) -> bytes:
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new(mode, size).save(buffer, kind, exif=exif, **options)
    return buffer.getvalue()


# Run by itself: room as measured, so that a new Pillow which takes more is noticed.
MEASURE = """
import sys
from pathlib import Path
from transformer.decode import MemoryNeeded, decode
from transformer.thumbnail import make_thumbnail

def read(name):
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status[name].split()[0]) * 1024

for name in sys.argv[1:]:
    data = Path(name).read_bytes()
    for work in (lambda room: decode(data, 224, exif_orientation=True, room=room),
                 lambda room: make_thumbnail(data, 640, 10**9, room)):
        try:
            work(0)
        except MemoryNeeded as error:
            amount = error.amount
        Path("/proc/self/clear_refs").write_text("5")
        before = read("VmRSS")
        work(amount)
        peak = read("VmHWM") - before
        assert peak < amount + 4_000_000, f"{name}: {peak} bytes, not {amount}"
"""


def band_by_band(width: int, height: int) -> bytes:
    """A baseline JPEG of three bands, each in a scan of its own."""
    grey = encode("L", "JPEG", (width, height))
    frame, scan = grey.index(b"\xff\xc0"), grey.index(b"\xff\xda")
    bands = b"".join(bytes([band, 0x11, 0]) for band in (1, 2, 3))
    head = grey[:frame] + struct.pack(">HHBHHB", 0xFFC0, 17, 8, height, width, 3) + bands + grey[frame + 13 : scan]
    # A scan's header has its number of bands after 4 bytes, and then which.
    scans = b"".join(grey[scan : scan + 5] + bytes([band]) + grey[scan + 6 : -2] for band in (1, 2, 3))
    return head + scans + grey[-2:]


def one_strip(width: int, height: int) -> bytes:
    """A TIFF of four values of 16 bits a pixel, all in one strip, and to be turned."""
    size = {256: (4, width), 257: (4, height), 278: (4, height)}
    kind = {258: (3, 16), 259: (3, 8), 262: (3, 2), 274: (3, 6), 277: (3, 4), 338: (3, 0)}
    return tiff({**size, **kind}, zlib.compress(bytes(width * height * 8)))


PICTURES = {
    "rgb.png": encode("RGB", "PNG"),
    "upright.png": encode("RGB", "PNG", (4100, 2000)),  # when it is turned
    "rgba.png": encode("RGBA", "PNG"),
    "grey.gif": encode("P", "GIF"),
    "rgb.bmp": encode("RGB", "BMP"),
    "cmyk.tif": encode("CMYK", "TIFF", compression="tiff_lzw"),
    "rgb.tif": encode("RGB", "TIFF", compression="tiff_lzw"),
    "strip.tif": one_strip(2000, 1500),
    "lossless.webp": encode("RGBA", "WEBP", lossless=True, method=0),
    "lossy.webp": encode("RGB", "WEBP", method=0),
    "long.jpg": encode("RGB", "JPEG", (6000, 500)),
    "band-by-band.jpg": band_by_band(3000, 2000),
    "progressive.jpg": encode("RGB", "JPEG", progressive=True, subsampling=0),
    "progressive-long.jpg": encode("CMYK", "JPEG", (6000, 500), progressive=True),
}


def test_no_format_takes_more_than_is_said(tmp_path: Path) -> None:
    for name, data in PICTURES.items():
        (tmp_path / name).write_bytes(data)
    # Freed memory goes back at once, so that each picture begins with nothing.
    environ = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    command = [sys.executable, "-c", MEASURE, *[str(tmp_path / name) for name in PICTURES]]
    subprocess.run(command, check=True, env=environ, timeout=120)


def test_a_photograph_is_small_and_an_empty_webp_may_be_large() -> None:
    photograph = encode("RGB", "JPEG", (4000, 3000))
    decode(photograph, 224, exif_orientation=True, room=SMALL)
    make_thumbnail(photograph, 640, 50_000_000, SMALL)
    webp = encode("RGB", "WEBP", (2000, 2000), lossless=True, method=0)
    assert len(webp) < 1000
    with pytest.raises(MemoryNeeded):
        decode(webp, 224, exif_orientation=True, room=SMALL)
