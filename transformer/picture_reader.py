"""A row of a picture list to pixels, whether its picture is a file or has to be downloaded."""

import asyncio
from concurrent.futures import Executor
from pathlib import Path

from contract import Pixels
from serving.deadline import Deadline
from serving.errors import FetchFailed, InvalidRequest, TooLarge
from transformer.decode import decode
from transformer.limits import PictureLimits
from transformer.picture_list import Row
from transformer.pipeline import Fetch

_FETCH_SECONDS = 3600.0  # the downloader has limits of its own, far below


class PictureReader:
    """Reads and decodes off the event loop."""

    def __init__(
        self, root: Path, fetch: Fetch, fetches: int, threads: Executor, size: int, exif_orientation: bool,
        limits: PictureLimits,
    ) -> None:  # fmt: skip
        self._root, self._fetch, self._threads, self._limits = root, fetch, threads, limits
        self._size, self._exif_orientation = size, exif_orientation
        self._slots = asyncio.Semaphore(fetches)

    async def read(self, row: Row) -> Pixels:
        """[S, S, 3] uint8; raises a ServiceError that says why there are none."""
        _check(row)
        loop = asyncio.get_running_loop()
        if not row.url:
            return await loop.run_in_executor(self._threads, lambda: self._decode(self._load(row.path)))
        async with self._slots:
            data = await self._fetch(row.url, Deadline.after(_FETCH_SECONDS))
        return await loop.run_in_executor(self._threads, self._decode, data)

    def _load(self, path: str) -> bytes:
        try:
            with (self._root / path).open("rb") as file:
                data = file.read(self._limits.max_bytes + 1)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "its name is not valid"
            raise FetchFailed(f"the file cannot be read: {reason}") from None
        if len(data) > self._limits.max_bytes:
            raise TooLarge(f"the picture has more than {self._limits.max_bytes} bytes")
        return data

    def _decode(self, data: bytes) -> Pixels:
        return decode(data, self._size, exif_orientation=self._exif_orientation, max_pixels=self._limits.max_pixels)


def _check(row: Row) -> None:
    if not row.name:
        raise InvalidRequest("the row has neither a path nor a url")
    if not row.label:
        raise InvalidRequest("the row has no class")
    try:
        "".join(row).encode()
    except UnicodeEncodeError:
        raise InvalidRequest("the name of the file is not UTF-8") from None
