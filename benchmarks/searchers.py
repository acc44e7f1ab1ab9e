"""What the search is compared with: libraries, a full scan, Python rows, and memory that is only read or copied."""

import functools
import importlib
import itertools
from abc import ABC, abstractmethod
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


class ByClass(ABC):
    """A matrix for each class, for libraries that filter slowly or not at all: the best of each are merged."""

    def __init__(self, folder: str) -> None:
        paths, labels, matrix = _read_normalised(folder)
        names, codes = np.unique(labels, return_inverse=True)
        rows_of = {str(name): np.flatnonzero(codes == code) for code, name in enumerate(names)}
        self._paths_of = {name: [paths[row] for row in rows] for name, rows in rows_of.items()}
        self._parts = {name: self.build(matrix[rows]) for name, rows in rows_of.items()}

    @abstractmethod
    def build(self, matrix: Floats) -> Any:
        """What searches the unit vectors of one class."""

    @abstractmethod
    def search_part(self, part: Any, query: Floats, n: int) -> tuple[Any, Any]:
        """Cosines and rows of the best `n`, or of all where there are fewer."""

    def search(self, embedding: Floats, classes: Sequence[str], n: int) -> list[str]:
        query = embedding / np.linalg.norm(embedding)
        found: list[tuple[float, str]] = []
        for name in self._parts.keys() & set(classes):
            cosines, rows = self.search_part(self._parts[name], query, n)
            paths = self._paths_of[name]
            found += [(-cosine, paths[row]) for cosine, row in zip(cosines.tolist(), rows.tolist(), strict=True)]
        return [path for _, path in sorted(found)[:n]]


class FaissFlat(ByClass):
    """faiss, exact. An index of all rows with a selector of those that are searched was slower."""

    def __init__(self, folder: str) -> None:
        self._faiss: Any = importlib.import_module("faiss")
        super().__init__(folder)

    def build(self, matrix: Floats) -> Any:
        index = self._faiss.IndexFlatIP(matrix.shape[1])
        index.add(matrix)
        return index

    def search_part(self, part: Any, query: Floats, n: int) -> tuple[Any, Any]:
        cosines, rows = part.search(query[None], min(n, part.ntotal))
        return cosines[0], rows[0]


class USearchExact(ByClass):
    """usearch, exact, in one thread: more of them took longer for parts of this size."""

    def __init__(self, folder: str) -> None:
        self._usearch: Any = importlib.import_module("usearch.index")
        super().__init__(folder)

    def build(self, matrix: Floats) -> Any:
        return matrix

    def search_part(self, part: Any, query: Floats, n: int) -> tuple[Any, Any]:
        metric, count = self._usearch.MetricKind.IP, min(n, len(part))
        found = self._usearch.search(part, query, count, metric, exact=True, threads=1)
        return 1 - found.distances, found.keys


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
