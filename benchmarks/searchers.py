"""What the search is compared with: libraries, a full scan, Python rows, and memory that is only read or copied."""

import functools
import importlib
import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from contract import Floats
from serving.threads import cpu_limit

Row = dict[str, Any]


def _read_normalised(folder: str) -> tuple[list[str], list[str], Floats]:
    """Paths, classes and unit vectors [N, D] of all rows."""
    table = pq.read_table(folder, columns=["path", "class", "embedding"]).combine_chunks()
    matrix = table["embedding"].chunk(0).flatten().to_numpy().reshape(table.num_rows, -1)
    unit: Floats = matrix / np.linalg.norm(matrix, axis=1, keepdims=True)
    return table["path"].to_pylist(), table["class"].to_pylist(), unit


class FullScan:
    """One normalised matrix as well, but every query multiplies all of it and masks the classes afterwards."""

    def __init__(self, folder: str) -> None:
        self._paths, labels, self._matrix = _read_normalised(folder)
        self._labels, self._codes = np.unique(labels, return_inverse=True)

    def search(self, embedding: Floats, classes: Sequence[str], n: int) -> list[str]:
        scores = self._matrix @ (embedding / np.linalg.norm(embedding))
        scores[~np.isin(self._codes, np.searchsorted(self._labels, classes))] = -np.inf
        best = np.argsort(-scores, kind="stable")[:n]
        return [self._paths[row] for row in best]


class FaissFlat:
    """faiss: every row in one exact index, and a selector of the rows that a query may find."""

    def __init__(self, folder: str) -> None:
        self._faiss: Any = importlib.import_module("faiss")
        self._faiss.omp_set_num_threads(cpu_limit())
        self._paths, labels, matrix = _read_normalised(folder)
        names, codes = np.unique(labels, return_inverse=True)
        self._rows_of = {str(name): np.flatnonzero(codes == code) for code, name in enumerate(names)}
        self._index = self._faiss.IndexFlatIP(matrix.shape[1])
        self._index.add(matrix)

    def search(self, embedding: Floats, classes: Sequence[str], n: int) -> list[str]:
        # Of its selectors the one with which it multiplies no other rows.
        rows = np.concatenate([self._rows_of[name] for name in classes])
        chosen = self._faiss.SearchParameters(sel=self._faiss.IDSelectorArray(rows))
        query = embedding / np.linalg.norm(embedding)
        _, found = self._index.search(query[None], n, params=chosen)
        return [self._paths[row] for row in found[0]]


class USearchExact:
    """usearch, exact: it has no filter, so each class has a matrix of its own, and the best are merged."""

    def __init__(self, folder: str) -> None:
        self._usearch: Any = importlib.import_module("usearch.index")
        paths, labels, matrix = _read_normalised(folder)
        names, codes = np.unique(labels, return_inverse=True)
        self._rows_of = {str(name): np.flatnonzero(codes == code) for code, name in enumerate(names)}
        self._matrix_of = {name: matrix[rows] for name, rows in self._rows_of.items()}
        self._paths = paths

    def search(self, embedding: Floats, classes: Sequence[str], n: int) -> list[str]:
        query = embedding / np.linalg.norm(embedding)
        found: list[tuple[float, int]] = []
        metric, threads = self._usearch.MetricKind.IP, cpu_limit()
        for name in classes:
            matches = self._usearch.search(self._matrix_of[name], query, n, metric, exact=True, threads=threads)
            found += zip(matches.distances.tolist(), self._rows_of[name][matches.keys].tolist(), strict=True)
        return [self._paths[row] for _, row in sorted(found)[:n]]


class PythonRows:
    """Rows as the tutorial's data set gives them: a filter by class and a cosine for each request."""

    def __init__(self, folder: str) -> None:
        self._rows: list[Row] = pq.read_table(folder, columns=["path", "class", "embedding"]).to_pylist()

    def search(self, embedding: Floats, classes: Sequence[str], n: int) -> list[str]:
        chosen = [row for row in self._rows if row["class"] in classes]
        vectors = np.array([row["embedding"] for row in chosen], np.float32)
        norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(embedding)
        scored = [{**row, "similarity": one} for row, one in zip(chosen, vectors @ embedding / norms, strict=True)]
        return [row["path"] for row in sorted(scored, key=lambda row: -row["similarity"])[:n]]


class Bytes:
    """The float32 rows that a query reads, touched by as many threads as ours has, without multiplying anything."""

    def __init__(self, index_rows: int, rows: int, dim: int) -> None:
        """A query reads `rows` of `index_rows`."""
        parts = cpu_limit()
        # More than a cache holds, in places that follow each other as a query's classes do.
        self._matrix = np.ones((index_rows, dim), np.float32)
        self._starts = itertools.cycle(range(0, len(self._matrix) - rows + 1, rows))
        self._rows, self._pool = rows, ThreadPoolExecutor(parts)
        self._cuts = np.linspace(0, rows, parts + 1).astype(int)
        self._target = np.empty((rows, dim), np.float32)

    def read(self) -> object:
        """The largest of the bytes as whole numbers, which is as fast as memory is."""
        return self._each(lambda rows, first, last: rows[first:last].view(np.int64).max())

    def copy(self) -> object:
        """Into another place: reads them and writes as many."""
        return self._each(lambda rows, first, last: np.copyto(self._target[first:last], rows[first:last]))

    def _each(self, touch: Callable[[Floats, int, int], object]) -> object:
        start = next(self._starts)
        rows = self._matrix[start : start + self._rows]
        return list(self._pool.map(functools.partial(touch, rows), self._cuts[:-1], self._cuts[1:]))
