"""What to embed: a folder of class folders, or a table of paths or urls with their classes; one row at a time."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv

from serving.errors import ArtefactError, SettingError

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")

_BATCH_ROWS = 4096


class Row(NamedTuple):
    """One picture of the list; what the list does not give is empty."""

    path: str
    url: str
    label: str

    @property
    def name(self) -> str:
        """What the index calls the picture."""
        return self.path or self.url


@dataclass(frozen=True)
class PictureList:
    """Rows in an order that is the same each time; they are read anew for each iteration and never held."""

    root: Path  # what the paths are relative to
    read: Callable[[], Iterator[Row]]

    def __iter__(self) -> Iterator[Row]:
        return self.read()


class Extent(NamedTuple):
    """How long a list is, and a digest by which two lists can be told apart."""

    rows: int
    digest: str
    urls: int = 0  # rows whose picture has to be downloaded


def open_picture_list(location: str, image_root: str = "") -> PictureList:
    """The list at `location`; raises SettingError when it cannot be one. Iterating raises ArtefactError."""
    place = Path(location)
    if place.is_dir():
        if image_root:
            raise SettingError("--image_root goes with a Parquet or CSV file; the paths of a folder are relative to it")
        return PictureList(place, lambda: _read_folder(place))
    if not place.is_file():
        raise SettingError(f"IMAGES: {location!r} does not exist")
    root = Path(image_root) if image_root else place.parent
    if not root.is_dir():
        raise SettingError(f"--image_root: {image_root!r} is not a folder")
    if place.suffix.lower() == ".parquet":
        return PictureList(root, lambda: _read_table(place, _parquet_batches))
    if ".csv" in (suffix.lower() for suffix in place.suffixes[-2:]):  # .csv, .csv.gz
        return PictureList(root, lambda: _read_table(place, _csv_batches))
    raise SettingError(f"IMAGES: {location!r} is neither a folder nor a file named .parquet or .csv")


def measure(rows: Iterable[Row]) -> Extent:
    """Count and digest all rows."""
    count, urls, digest = 0, 0, hashlib.sha256()
    for row in rows:
        digest.update("\0".join((*row, "")).encode(errors="surrogateescape"))
        count += 1
        urls += bool(row.url)
    return Extent(count, digest.hexdigest()[:16], urls)


def find_pictures(folder: Path) -> list[str]:
    """Paths of all pictures below the class folders, relative to `folder` with `/`; raises ArtefactError for none."""
    paths = [row.path for row in _read_folder(folder)]
    if not paths:
        raise ArtefactError(f"{folder} has no pictures; they are expected as <class>/<picture>")
    return paths


def _read_folder(folder: Path) -> Iterator[Row]:
    for entry in _list_folder(str(folder)):
        if entry.is_dir():
            for path in _walk(entry.path, f"{entry.name}/"):
                yield Row(path, "", entry.name)
        elif _is_picture(entry):
            raise ArtefactError(f"{folder}: {entry.name} is in no class folder; pictures are expected in <class>/")


def _walk(folder: str, prefix: str) -> Iterator[str]:
    for entry in _list_folder(folder):
        if entry.is_dir(follow_symlinks=False):  # a link to a folder above would never end
            yield from _walk(entry.path, f"{prefix}{entry.name}/")
        elif _is_picture(entry):
            yield prefix + entry.name


def _list_folder(folder: str) -> list["os.DirEntry[str]"]:
    """What is in a folder, sorted; hidden names are thumbnails and the leavings of other systems."""
    try:
        with os.scandir(folder) as entries:
            return sorted((entry for entry in entries if entry.name[0] != "."), key=lambda entry: entry.name)
    except OSError as error:
        raise ArtefactError(f"{folder} cannot be read: {error.strerror}") from None


def _is_picture(entry: "os.DirEntry[str]") -> bool:
    return entry.name.lower().endswith(PICTURE_SUFFIXES) and entry.is_file()


def _read_table(file: Path, open_batches: Callable[[Path], Iterator[Any]]) -> Iterator[Row]:
    try:
        for batch in open_batches(file):
            empty = [""] * batch.num_rows
            columns = {name: _texts(batch.column(name)) for name in batch.schema.names}
            yield from map(Row, columns.get("path", empty), columns.get("url", empty), columns["class"])
    except (pa.ArrowException, OSError) as error:
        raise ArtefactError(f"{file} cannot be read: {' '.join(str(error).split())}") from None


def _texts(column: Any) -> list[str]:
    return column.cast(pa.string()).fill_null("").to_pylist()  # type: ignore[no-any-return]


def _parquet_batches(file: Path) -> Iterator[Any]:
    with pq.ParquetFile(file) as table:
        yield from table.iter_batches(_BATCH_ROWS, columns=_choose_columns(file, table.schema_arrow.names))


def _csv_batches(file: Path) -> Iterator[Any]:
    parse = csv.ParseOptions(newlines_in_values=True)
    with csv.open_csv(file, parse_options=parse) as reader:
        columns = _choose_columns(file, reader.schema.names)
    # Read as text whatever they look like: a class named 007 is not the number 7.
    convert = csv.ConvertOptions(include_columns=columns, column_types=dict.fromkeys(columns, pa.string()))
    with csv.open_csv(file, parse_options=parse, convert_options=convert) as reader:
        yield from reader


def _choose_columns(file: Path, names: Sequence[str]) -> list[str]:
    chosen = [name for name in ("path", "url", "class") if name in names]
    if "class" not in chosen or len(chosen) < 2:
        raise ArtefactError(f"{file} must have the columns path or url, and class; it has {', '.join(names)}")
    return chosen
