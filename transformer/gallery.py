"""Small versions of the index's pictures: looked up, made in threads of their own, and the last ones kept."""

import hashlib
from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass
from threading import Lock

from serving.deadline import Deadline
from serving.errors import InvalidRequest, NotFound, TooLarge
from transformer.catalogue import Catalogue
from transformer.decode_pool import DecodeMemory, DecodePool
from transformer.image_store import ImageStore
from transformer.limits import PictureLimits
from transformer.search import Index
from transformer.thumbnail import make_thumbnail

THREADS = 2  # so that whoever looks at pictures cannot take the processor from those who ask
MAX_WAITING = 256  # two pages of the most matches, each asked for at once
MAX_KEPT = 32 * 2**20  # bytes


@dataclass(frozen=True)
class Thumbnail:
    """A small picture, or only its tag when the caller has it already."""

    tag: str
    data: bytes | None


class Gallery:
    """The pictures of an index in a store."""

    def __init__(self, store: ImageStore, limits: PictureLimits, memory: DecodeMemory) -> None:
        self._store, self._limits = store, limits
        self._pool = DecodePool("picture", THREADS, MAX_WAITING, memory)
        self._kept = KeptBytes(MAX_KEPT)
        self._lock = Lock()
        self._catalogue: Catalogue | None = None

    async def show(self, index: Index, path: str, size: int, known: Collection[str], deadline: Deadline) -> Thumbnail:
        """The picture at `path` within `size` x `size`; raises NotFound unless it is in the index and there."""
        try:
            return await self._pool.decode(lambda room: self._show(index, path, size, known, room), deadline)
        except (InvalidRequest, TooLarge) as error:  # nothing is wrong with the request
            raise NotFound(f"the picture is in the index, but cannot be shown: {error.sentence}") from None

    def _show(self, index: Index, path: str, size: int, known: Collection[str], room: float) -> Thumbnail:
        if path not in self._catalogue_of(index):
            raise NotFound("there is no such picture in the index")
        picture = self._store.find(path)
        tag = hashlib.sha256(f"{path}\0{size}\0{picture.version}".encode()).hexdigest()[:32]
        if tag in known:
            return Thumbnail(tag, None)
        data = self._kept.get(tag)
        if data is None:
            data = make_thumbnail(picture.read(self._limits.max_bytes), size, self._limits.max_pixels, room)
            self._kept.put(tag, data)
        return Thumbnail(tag, data)

    def _catalogue_of(self, index: Index) -> Catalogue:
        with self._lock:
            if self._catalogue is None or self._catalogue.paths is not index.paths:
                self._catalogue = Catalogue(index.paths)
            return self._catalogue


class KeptBytes:
    """The values that were used last, up to a number of bytes; shared by threads."""

    def __init__(self, most: int) -> None:
        self._most, self._size, self._lock = most, 0, Lock()
        self._values: OrderedDict[str, bytes] = OrderedDict()

    def get(self, key: str) -> bytes | None:
        """The value, which counts as used."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
            return self._values.get(key)

    def put(self, key: str, value: bytes) -> None:
        """Keep `value`, and drop what was not used for the longest time."""
        with self._lock:
            self._size += len(value) - len(self._values.pop(key, b""))
            self._values[key] = value
            while self._size > self._most:
                self._size -= len(self._values.popitem(last=False)[1])
