"""Pictures below a root, which is a folder or a place in an object store; nothing outside it is ever read."""

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol
from urllib.parse import urlsplit

from pyarrow import ArrowException, fs

from serving.errors import ArtefactError, NotFound, NotReady, SettingError, TooLarge
from serving.logs import warn

_MISSING = "the picture is in the index, but not below --image_root"


@dataclass(frozen=True)
class StoredPicture:
    """A picture that is there; `version` is another one when the picture was changed."""

    version: str
    size: int
    open: Callable[[], BinaryIO]

    def read(self, max_bytes: int) -> bytes:
        """Its bytes; raises TooLarge without having more than `max_bytes` in memory."""
        if self.size <= max_bytes:
            with self.open() as file:
                data = file.read(max_bytes + 1)  # it may have grown
            if len(data) <= max_bytes:
                return data
        raise TooLarge(f"it has more than {max_bytes} bytes")


class ImageStore(Protocol):
    """Where pictures are."""

    def find(self, path: str) -> StoredPicture:
        """The picture at `path`, which is relative to the root; raises NotFound when there is none."""
        ...


def open_store(root: str) -> ImageStore:
    """The store that --image_root names; raises SettingError or ArtefactError with a sentence."""
    if "://" not in root:
        return _open_folder(root)
    try:
        filesystem, below = fs.FileSystem.from_uri(root)
    except (ArrowException, OSError) as error:
        parts = urlsplit(root)  # without the keys that it may hold
        shown = f"{parts.scheme}://{parts.hostname or ''}{parts.path}"
        reason = " ".join(str(error).split()).replace(root, shown)
        raise ArtefactError(f"--image_root: {shown} cannot be opened ({reason})") from None
    return _open_folder(below) if isinstance(filesystem, fs.LocalFileSystem) else ObjectStore(filesystem, below)


def _open_folder(root: str) -> "Folder":
    if not Path(root).is_dir():
        raise SettingError(f"--image_root: {root} is not a folder")
    return Folder(Path(root))


def is_plain(path: str) -> bool:
    """Whether `path` has only names between its slashes: no root, no way up, nothing that is read in two ways."""
    return "\\" not in path and "\0" not in path and not {"", ".", ".."} & set(path.split("/"))


class Folder:
    """A folder of this machine. Links are followed as long as they stay below it."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def find(self, path: str) -> StoredPicture:
        if not is_plain(path):
            raise NotFound(_MISSING)
        try:
            root = self._root.resolve(strict=True)  # each time: a mounted volume may be a link that is moved
            file = (root / path).resolve(strict=True)
            found = file.lstat()
        except (OSError, RuntimeError):  # RuntimeError: links in a circle
            raise NotFound(_MISSING) from None
        if not (file.is_relative_to(root) and stat.S_ISREG(found.st_mode)):
            raise NotFound(_MISSING)
        return StoredPicture(f"{found.st_mtime_ns}-{found.st_size}", found.st_size, lambda: _open_file(file))


def _open_file(file: Path) -> BinaryIO:
    try:
        return os.fdopen(os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    except OSError:
        raise NotFound(_MISSING) from None


class ObjectStore:
    """An object store, by one of pyarrow's file systems."""

    def __init__(self, filesystem: Any, root: str) -> None:
        self._filesystem, self._root = filesystem, root.rstrip("/")

    def find(self, path: str) -> StoredPicture:
        if not is_plain(path):
            raise NotFound(_MISSING)
        name = f"{self._root}/{path}"
        info = _ask(lambda: self._filesystem.get_file_info(name))
        if info.type is not fs.FileType.File:
            raise NotFound(_MISSING)
        return StoredPicture(
            f"{info.mtime_ns}-{info.size}", info.size, lambda: _ask(lambda: self._filesystem.open_input_file(name))
        )


def _ask(question: Callable[[], Any]) -> Any:
    try:
        return question()
    except FileNotFoundError:
        raise NotFound(_MISSING) from None
    except (ArrowException, OSError) as error:
        warn("the store of --image_root does not answer", reason=" ".join(str(error).split()))
        raise NotReady("the store of the index's pictures does not answer") from None
