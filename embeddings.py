"""Embeddings in Parquet: what those who embed write and those who train or search read (pyarrow and numpy only)."""

import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyarrow import fs

from contract import ClipMark, Floats
from serving.errors import ArtefactError

COLUMNS = ("path", "class", "embedding")
MARK_KEY = b"clip"  # in the metadata of the schema

# Beside the matrix only this much is in memory while reading, however large a row group is.
_BATCH_ROWS = 1024
_READ_BYTES = 1 << 22
_GROUP_ROWS = 16_384  # rows written to one row group


@dataclass(frozen=True)
class Embeddings:
    """N rows in the order of the files, which are sorted by name."""

    paths: pa.Array  # [N] string
    labels: tuple[str, ...]  # the distinct classes, sorted
    codes: NDArray[np.int32]  # [N], positions in `labels`
    matrix: Floats  # [N, D], contiguous, as written (not normalised) unless the reader asked for something else
    mark: ClipMark | None


def read_embeddings(location: str, prepare: Callable[[Floats], Any] = lambda vectors: vectors) -> Embeddings:
    """Read a Parquet file, a folder of parts, or a URI of either; raises ArtefactError with a sentence.

    `prepare` is given some rows at a time, and what it makes of them is kept, in its dtype.

    `embedding` may be a list, large list or fixed-size list of float16, 32 or 64, or a tensor extension type over one
    of them, as Ray Data writes it. No Python object is made for a row.
    """
    parts = [_Part(filesystem, file) for filesystem, file in _find_files(location)]
    rows, mark = sum(part.rows for part in parts), _common_mark(parts)
    if not rows:
        raise ArtefactError(f"{_shown(location)} has no rows; embed some pictures first")
    paths, classes, matrix = _read_columns(parts, rows, prepare)
    if mark and mark.dim != matrix.shape[1]:
        raise ArtefactError(f"{_shown(location)} has {matrix.shape[1]} values a row, but its mark says {mark.dim}")
    encoded = classes.dictionary_encode()
    names: list[str] = encoded.dictionary.to_pylist()
    code_of = {label: code for code, label in enumerate(sorted(names))}
    codes = np.array([code_of[name] for name in names], np.int32)[encoded.indices.to_numpy()]
    return Embeddings(paths, tuple(code_of), codes, matrix, mark)


def write_embeddings_part(
    path: Path, paths: Sequence[str], classes: Sequence[str], embeddings: Floats, mark: ClipMark
) -> None:
    """Write `embeddings` [N, D] as one Parquet file, whole or not at all."""
    values = pa.array(np.ascontiguousarray(embeddings, dtype=np.float32).reshape(-1))
    vectors = pa.FixedSizeListArray.from_arrays(values, embeddings.shape[1])
    columns = [pa.array(paths, pa.string()), pa.array(classes, pa.string()), vectors]
    table = pa.table(columns, names=COLUMNS).replace_schema_metadata({MARK_KEY: mark.to_json()})
    # Hidden while unfinished, so that nobody who reads the folder takes it for a part.
    unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        pq.write_table(table, unfinished, row_group_size=_GROUP_ROWS, use_dictionary=["class"])
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _find_files(location: str) -> list[tuple[Any, str]]:
    """The Parquet files at `location`, sorted by name, each with its file system."""
    with _as_artefact_error("cannot be opened", location):
        if "://" in location:
            filesystem, root = fs.FileSystem.from_uri(location)
        else:
            filesystem, root = fs.LocalFileSystem(), str(Path(location).absolute())
        kind = filesystem.get_file_info(root).type
        if kind == fs.FileType.NotFound:
            raise ArtefactError(f"{_shown(location)} does not exist; give a Parquet file, a folder of them, or a URI")
        if kind == fs.FileType.File:
            return [(filesystem, root)]
        found = filesystem.get_file_info(fs.FileSelector(root, recursive=True))
    files = sorted(file.path for file in found if file.is_file and _is_part(file.path[len(root) :]))
    if not files:
        raise ArtefactError(f"{_shown(location)} has no Parquet files (their names end in .parquet)")
    return [(filesystem, file) for file in files]


def _is_part(path: str) -> bool:
    """Whether a path below the folder is a Parquet file, and neither hidden nor set aside (`_temporary`)."""
    names = path.strip("/").split("/")
    return names[-1].lower().endswith(".parquet") and not any(name.startswith((".", "_")) for name in names)


def _shown(location: str) -> str:
    """Without the keys that a URI may hold."""
    parts = urlsplit(location)
    return f"{parts.scheme}://{parts.hostname or ''}{parts.path}" if "://" in location else location


@contextmanager
def _as_artefact_error(sentence: str, location: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split()).replace(location, _shown(location))
        raise ArtefactError(f"{_shown(location)} {sentence} ({reason})") from None


class _Part:
    """One Parquet file: its footer is read at once, its rows when they are asked for."""

    def __init__(self, filesystem: Any, name: str) -> None:
        self.name, self._filesystem = name, filesystem
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
            yield pq.ParquetFile(self._filesystem.open_input_file(self.name), **options)

    def batches(self) -> Iterator[tuple[Any, Any, Any]]:
        """Arrays of path, class and embedding, a few rows at a time."""
        with self._open(metadata=self._metadata, buffer_size=_READ_BYTES, pre_buffer=False) as file:
            for batch in self._read_batches(file):
                path, label, embedding = (batch.column(name) for name in COLUMNS)
                yield self._to_strings("path", path), self._to_strings("class", label), embedding

    def _read_batches(self, file: Any) -> Iterator[Any]:
        try:
            yield from file.iter_batches(_BATCH_ROWS, columns=list(COLUMNS))
        except pa.ArrowInvalid as error:
            # What pyarrow makes of a null among lists of a fixed size.
            if "Expected all lists to be of size" not in str(error):
                raise
            raise ArtefactError(
                f"{self.name}: column embedding is null in some rows; every row must have a value"
            ) from None

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


def _common_mark(parts: Sequence[_Part]) -> ClipMark | None:
    first = parts[0]
    for part in parts:
        if part.mark != first.mark:
            raise ArtefactError(
                f"all parts must come from one CLIP: {first.name} has {first.mark}, {part.name} has {part.mark}"
            )
    return first.mark


def _read_columns(parts: Sequence[_Part], rows: int, prepare: Callable[[Floats], Any]) -> tuple[Any, Any, Floats]:
    """All rows of all parts: paths, classes and the matrix, which is filled as the rows come."""
    paths, classes, nulls, row = [], [], Counter[str](), 0
    matrix: Floats = np.empty((0, 0), np.float32)
    for part in parts:
        for path, label, embedding in part.batches():
            paths.append(path)
            classes.append(label)
            nulls.update(dict(zip(COLUMNS, (path.null_count, label.null_count, embedding.null_count), strict=True)))
            if embedding.null_count or not len(embedding):
                continue
            vectors = prepare(part.to_vectors(embedding))
            if not matrix.size:
                matrix = np.empty((rows, vectors.shape[1]), vectors.dtype)
            part.check_lengths(*sorted((vectors.shape[1], matrix.shape[1])))
            matrix[row : row + len(vectors)] = vectors
            row += len(vectors)
        pa.default_memory_pool().release_unused()  # what the pool kept of a part would stay beside the matrix
    for column, count in nulls.items():
        if count:
            raise ArtefactError(f"column {column} is null in {count} rows; every row must have a value")
    return pa.chunked_array(paths).combine_chunks(), pa.chunked_array(classes).combine_chunks(), matrix
