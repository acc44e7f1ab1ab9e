"""The Parquet files that hold embeddings: found, opened, and read a few rows at a time."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from contract import ClipMark, Floats
from serving.errors import ArtefactError

COLUMNS = ("path", "class", "embedding")
MARK_KEY = b"clip"  # in the metadata of the schema

# Beside the matrix only this much is in memory while reading, however large a row group is.
_BATCH_ROWS = 1024
_READ_BYTES = 1 << 22


def find_parts(location: str) -> list["Part"]:
    """The files at `location`, sorted by name; raises ArtefactError when there are none, or one lacks a column."""
    return [Part(filesystem, file) for filesystem, file in _find_files(location)]


def _find_files(location: str) -> list[tuple[Any, str]]:
    """Those at `location`, sorted by name, each with its file system."""
    with _as_artefact_error("cannot be opened", location):
        if "://" in location:
            filesystem, root = fs.FileSystem.from_uri(location)
        else:
            filesystem, root = fs.LocalFileSystem(), str(Path(location).absolute())
        kind = filesystem.get_file_info(root).type
        if kind == fs.FileType.NotFound:
            shown = show_location(location)
            raise ArtefactError(f"{shown} does not exist; give a Parquet file, a folder of them, or a URI")
        if kind == fs.FileType.File:
            return [(filesystem, root)]
        found = filesystem.get_file_info(fs.FileSelector(root, recursive=True))
    files = sorted(file.path for file in found if file.is_file and _is_part(file.path[len(root) :]))
    if not files:
        raise ArtefactError(f"{show_location(location)} has no Parquet files (their names end in .parquet)")
    return [(filesystem, file) for file in files]


def _is_part(path: str) -> bool:
    """Whether a path below the folder is a Parquet file, and neither hidden nor set aside (`_temporary`)."""
    names = path.strip("/").split("/")
    return names[-1].lower().endswith(".parquet") and not any(name.startswith((".", "_")) for name in names)


def show_location(location: str) -> str:
    """Without the keys that a URI may hold."""
    parts = urlsplit(location)
    return f"{parts.scheme}://{parts.hostname or ''}{parts.path}" if "://" in location else location


@contextmanager
def _as_artefact_error(sentence: str, location: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split()).replace(location, show_location(location))
        raise ArtefactError(f"{show_location(location)} {sentence} ({reason})") from None


class Part:
    """One Parquet file: its footer is read at once, its rows when they are asked for."""

    def __init__(self, filesystem: Any, name: str) -> None:
        self.name, self._filesystem = name, filesystem
        self._version = self._read_version()
        with self._open() as file:
            self._metadata, schema = file.metadata, file.schema_arrow
        self.rows: int = self._metadata.num_rows
        missing = [column for column in COLUMNS if schema.names.count(column) != 1]
        if missing:
            raise ArtefactError(f"{name} must have one column {', '.join(missing)}; it has {', '.join(schema.names)}")
        text = (schema.metadata or {}).get(MARK_KEY)
        try:
            self.mark = ClipMark.from_json(text) if text is not None else None
        except ValueError as error:
            raise ArtefactError(f"{name}: {error}") from None

    @contextmanager
    def _open(self, **options: Any) -> Iterator[Any]:
        sentence = "cannot be read as Parquet: it is damaged, cut short or something else"
        with _as_artefact_error(sentence, self.name):
            file = pq.ParquetFile(self._filesystem.open_input_file(self.name), **options)
            if self._read_version() != self._version:
                raise ArtefactError(f"{self.name} was changed while it was read; try again")
            yield file

    def _read_version(self) -> tuple[int | None, int | None]:
        with _as_artefact_error("cannot be opened", self.name):
            info = self._filesystem.get_file_info(self.name)
        return info.size, info.mtime_ns

    def texts(self) -> Iterator[tuple[Any, Any]]:
        """Arrays of paths and of classes, some rows at a time."""
        with self._open_rows("path", "class") as batches:
            for path, label in batches:
                yield self._to_strings("path", path), self._to_strings("class", label)

    def embeddings(self) -> Iterator[Any]:
        """Arrays of embeddings, as they were written, a few rows at a time."""
        with self._open_rows("embedding") as batches:
            for (embedding,) in batches:
                yield embedding

    @contextmanager
    def _open_rows(self, *columns: str) -> Iterator[Iterator[list[Any]]]:
        with self._open(metadata=self._metadata, buffer_size=_READ_BYTES, pre_buffer=False) as file:
            yield self._read_batches(file, columns)

    def _read_batches(self, file: Any, columns: Sequence[str]) -> Iterator[list[Any]]:
        rows = 0
        try:
            for batch in file.iter_batches(_BATCH_ROWS, columns=list(columns)):
                rows += batch.num_rows
                if rows > self.rows:
                    break
                yield [batch.column(name) for name in columns]
        except pa.ArrowInvalid as error:
            # What pyarrow makes of a null among lists of a fixed size.
            if "Expected all lists to be of size" not in str(error):
                raise
            raise ArtefactError(
                f"{self.name}: column embedding is null in some rows; every row must have a value"
            ) from None
        if rows != self.rows:
            raise ArtefactError(f"{self.name} is damaged: it does not have the {self.rows} rows that it says it has")

    def _to_strings(self, column: str, array: Any) -> Any:
        kind = array.type.value_type if pa.types.is_dictionary(array.type) else array.type
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
            raise ArtefactError(f"{self.name}: column {column} must be text, and is {array.type}")
        strings = array.cast(pa.string())
        strings.validate(full=True)  # valid UTF-8
        return strings

    def to_vectors(self, array: Any) -> Floats:
        """A batch of lists without nulls as [rows, D]."""
        array = array.storage if isinstance(array, pa.ExtensionArray) else array
        kind, fixed = array.type, pa.types.is_fixed_size_list(array.type)
        lists = fixed or pa.types.is_list(kind) or pa.types.is_large_list(kind)
        if not (lists and pa.types.is_floating(kind.value_type)):
            raise ArtefactError(f"{self.name}: column embedding must be lists of floats, and is {kind}")
        lengths = np.full(len(array), kind.list_size) if fixed else np.diff(array.offsets.to_numpy())
        self.check_lengths(lengths.min(), lengths.max())
        with np.errstate(over="ignore"):  # a float64 too large for float32 becomes infinite, and a null is NaN
            values: Floats = array.flatten().to_numpy(zero_copy_only=False).astype(np.float32, copy=False)
        vectors = values.reshape(len(array), -1)
        bad = len(array) - int(np.isfinite(vectors).all(axis=1).sum())
        if bad:
            raise ArtefactError(f"{self.name}: {bad} embeddings have values that are not finite; embed them again")
        return vectors

    def check_lengths(self, least: int, most: int) -> None:
        if least != most or not least:
            raise ArtefactError(f"{self.name}: embeddings must all have the same length, and have {least} to {most}")
