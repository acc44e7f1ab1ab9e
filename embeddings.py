"""Embeddings in Parquet: what those who embed write and those who train or search read (pyarrow and numpy only)."""

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from contract import ClipMark, Floats
from embedding_parts import COLUMNS, MARK_KEY, Part, find_parts, show_location
from serving.errors import ArtefactError

_GROUP_ROWS = 16_384  # rows written to one row group


@dataclass(frozen=True)
class Embeddings:
    """N rows in the order of the files, which are sorted by name; or by class, and in that order within each."""

    paths: pa.Array  # [N] string
    labels: tuple[str, ...]  # the distinct classes, sorted
    codes: NDArray[np.int32]  # [N], positions in `labels`
    order: NDArray[np.intp]  # [N], where each row stands in the files
    matrix: Floats  # [N, D], contiguous, as written (not normalised) unless the reader asked for something else
    mark: ClipMark | None


def read_embeddings(
    location: str, prepare: Callable[[Floats], Any] = lambda vectors: vectors, *, by_class: bool = False
) -> Embeddings:
    """Read a Parquet file, a folder of parts, or a URI of either; raises ArtefactError with a sentence.

    `prepare` is given some rows at a time, and what it makes of them is kept, in its dtype.

    `embedding` may be a list, large list or fixed-size list of float16, 32 or 64, or a tensor extension type over one
    of them, as Ray Data writes it. No Python object is made for a row.
    """
    parts = find_parts(location)
    mark = _common_mark(parts)
    if not any(part.rows for part in parts):
        raise ArtefactError(f"{show_location(location)} has no rows; embed some pictures first")
    paths, labels, codes = _read_texts(parts)
    # Known before the vectors are read, so that each is put where it stays and no second matrix is needed.
    order = np.argsort(codes, kind="stable") if by_class else np.arange(len(codes))
    paths, codes = paths.take(order), codes[order]
    matrix = _read_matrix(parts, order, prepare)
    if mark and mark.dim != matrix.shape[1]:
        shown = show_location(location)
        raise ArtefactError(f"{shown} has {matrix.shape[1]} values a row, but its mark says {mark.dim}")
    return Embeddings(paths, labels, codes, order, matrix, mark)


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


def _common_mark(parts: Sequence[Part]) -> ClipMark | None:
    first = parts[0]
    for part in parts:
        if part.mark != first.mark:
            raise ArtefactError(
                f"all parts must come from one CLIP: {first.name} has {first.mark}, {part.name} has {part.mark}"
            )
    return first.mark


def _read_texts(parts: Sequence[Part]) -> tuple[Any, tuple[str, ...], NDArray[np.int32]]:
    """Of all rows: the paths; the distinct classes, sorted; and each row's position among them."""
    texts = [pair for part in parts for pair in part.texts()]
    paths, classes = (pa.chunked_array(chunks).combine_chunks() for chunks in zip(*texts, strict=True))
    _refuse_nulls("path", paths.null_count)
    _refuse_nulls("class", classes.null_count)
    encoded = classes.dictionary_encode()
    names: list[str] = encoded.dictionary.to_pylist()
    code_of = {label: code for code, label in enumerate(sorted(names))}
    return paths, tuple(code_of), np.array([code_of[name] for name in names], np.int32)[encoded.indices.to_numpy()]


def _read_matrix(parts: Sequence[Part], order: NDArray[np.intp], prepare: Callable[[Floats], Any]) -> Floats:
    """The matrix, its rows in `order`, filled as they come."""
    place = np.empty_like(order)  # [N]: of each row of the files in the matrix
    place[order] = np.arange(len(order))
    matrix: Floats = np.empty((0, 0), np.float32)
    row = nulls = 0
    for part in parts:
        _release_unused()
        for embedding in part.embeddings():
            nulls += embedding.null_count
            if nulls or not len(embedding):
                continue
            vectors = prepare(part.to_vectors(embedding))
            if not matrix.size:
                matrix = np.empty((len(order), vectors.shape[1]), vectors.dtype)
            part.check_lengths(*sorted((vectors.shape[1], matrix.shape[1])))
            matrix[place[row : row + len(vectors)]] = vectors
            row += len(vectors)
    _release_unused()
    _refuse_nulls("embedding", nulls)
    return matrix


def _release_unused() -> None:
    """What Arrow keeps of what was read would stay in memory beside the matrix."""
    pa.default_memory_pool().release_unused()


def _refuse_nulls(column: str, count: int) -> None:
    if count:
        raise ArtefactError(f"column {column} is null in {count} rows; every row must have a value")
