"""The pictures most like an embedding, among those of given classes: exact, in one matrix in memory."""

from bisect import bisect_right
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from contract import ClipMark, Floats
from embeddings import Embeddings, read_embeddings
from serving.errors import ArtefactError, ServiceError
from serving.threads import cpu_limit

Slice = tuple[int, int]  # of rows: the first and past the last

_ROW_BLOCK = 512  # of float16, widened at a time
FEW_NUMBERS = 2**19  # multiplied in 0.1 ms, or three times that after a forward, when nothing is in the caches


class Match(NamedTuple):
    """One picture of the index."""

    label: str
    path: str
    similarity: float  # cosine, -1 to 1


class Index(Protocol):
    """What can be searched for similar pictures."""

    mark: ClipMark | None
    classes: tuple[str, ...]
    dim: int
    rows: int
    paths: Any  # [N] strings of pyarrow

    def pick(self, count: int) -> list[tuple[str, str]]:
        """Class and path of up to `count` pictures, each of another class."""
        ...

    def is_quick(self, classes: Sequence[str]) -> bool:
        """Whether a search in `classes` is so short that the event loop may do it."""
        ...

    def search(self, embedding: Floats, classes: Sequence[str], n: int) -> list[Match]:
        """The `n` rows of `classes` most similar to `embedding` [D], best first."""
        ...


class ExactIndex:
    """All rows, L2-normalised and sorted by class, so that a filter by class is a few slices.

    Ties go to the row that came first in the files. A row of zeros has similarity 0 to everything. Rows of float16 have
    been normalised before they were rounded; the search is exact among the rounded ones.
    """

    def __init__(self, embeddings: Embeddings) -> None:
        """From unit vectors that are sorted by class, as `load_index` reads them."""
        assert (np.diff(embeddings.codes) >= 0).all(), "the rows are not sorted by class"
        self.mark = embeddings.mark
        self.classes = embeddings.labels
        self.paths = embeddings.paths
        self.rows, self.dim = embeddings.matrix.shape
        self._matrix = embeddings.matrix  # [N, D]
        self._order = embeddings.order  # [N]
        bounds = np.searchsorted(embeddings.codes, np.arange(len(self.classes) + 1))  # [C + 1]
        self._bounds: list[int] = bounds.tolist()  # a list, because single numbers of an array are slow to take
        self._code_of = {label: code for code, label in enumerate(self.classes)}
        # |computed - exact| of a float32 dot product of D terms and of unit vectors is at most D * 2^-24 (Higham, 3.1),
        # here doubled for the rounding of the vectors themselves, and again because two products are compared.
        self._margin = np.float32(4 * self.dim * 2.0**-24)
        self._cores = cpu_limit()
        self._threads = ThreadPoolExecutor(self._cores, "search part")  # which begin with the first long search

    def pick(self, count: int) -> list[tuple[str, str]]:
        """Class and path of up to `count` pictures, of classes that are spread over all of them."""
        codes = np.linspace(0, len(self.classes) - 1, min(count, len(self.classes))).astype(int)
        return [(self.classes[code], self.paths[self._bounds[code]].as_py()) for code in codes]

    def is_quick(self, classes: Sequence[str]) -> bool:
        """Whether a search in `classes` is so short that the event loop may do it."""
        return self._is_short(self._slices(classes))

    def search(self, embedding: Floats, classes: Sequence[str], n: int) -> list[Match]:
        """The `n` rows of `classes` most similar to `embedding` [D], best first; fewer when there are fewer rows.

        Classes that the index does not have are ignored. The embedding need not be normalised.
        """
        slices = self._slices(classes)
        if n < 1 or not slices:
            return []
        query = _unit(embedding)  # [D] float64
        positions = self._candidates(query.astype(np.float32), slices, n)
        # Scored again in float64, each row by itself: how BLAS rounds a row depends on the rows around it, which
        # would tear ties apart.
        scores = (self._matrix[positions] * query).sum(axis=1).astype(np.float32)
        best = np.lexsort((self._order[positions], -scores))[:n]
        return [self._match(int(positions[i]), float(scores[i])) for i in best]

    def _is_short(self, slices: list[Slice]) -> bool:
        rows = sum(last - first for first, last in slices)
        return self._matrix.dtype == np.float32 and rows * self.dim <= FEW_NUMBERS

    def _slices(self, classes: Sequence[str]) -> list[Slice]:
        """Where the rows of `classes` are, neighbours merged."""
        slices: list[Slice] = []
        for code in sorted({self._code_of[label] for label in classes if label in self._code_of}):
            first, last = self._bounds[code], self._bounds[code + 1]
            if slices and slices[-1][1] == first:
                slices[-1] = (slices[-1][0], last)
            else:
                slices.append((first, last))
        return slices

    def _candidates(self, query: Floats, slices: list[Slice], n: int) -> NDArray[np.intp]:
        """Positions of all rows that may be among the best `n`: a few more than `n`."""
        if self._cores == 1 or self._is_short(slices):
            return self._choose(*self._score(slices, query), n)[0]
        parts = cut(slices, self._cores)
        chosen = self._threads.map(lambda part: self._choose(*self._score(part, query), n), parts)
        positions, scores = (np.concatenate(arrays) for arrays in zip(*chosen, strict=True))
        return self._choose(positions, scores, n)[0]

    def _score(self, slices: list[Slice], query: Floats) -> tuple[NDArray[np.intp], Floats]:
        """Positions of all rows in `slices` and their similarities."""
        positions = np.concatenate([np.arange(first, last) for first, last in slices])
        return positions, np.concatenate([self._multiply(first, last, query) for first, last in slices])

    def _choose(self, positions: NDArray[np.intp], scores: Floats, n: int) -> tuple[NDArray[np.intp], Floats]:
        """Those that may be among the best `n`."""
        if len(scores) <= n:
            return positions, scores
        close = scores >= np.partition(scores, -n)[-n] - self._margin
        return positions[close], scores[close]

    def _multiply(self, first: int, last: int, query: Floats) -> Floats:
        """Similarities of the rows in a slice. BLAS knows no float16: such rows are widened while they are in cache."""
        if self._matrix.dtype != np.float16:
            return _multiply_rows(self._matrix[first:last], query)
        blocks = [self._matrix[row : min(row + _ROW_BLOCK, last)] for row in range(first, last, _ROW_BLOCK)]
        return np.concatenate([_multiply_rows(block.astype(np.float32), query) for block in blocks])

    def _match(self, position: int, similarity: float) -> Match:
        code = bisect_right(self._bounds, position) - 1
        return Match(self.classes[code], self.paths[position].as_py(), similarity)


def load_index(location: str, *, allow_unmarked: bool = False, dtype: str = "float32") -> ExactIndex:
    """Read the embeddings at `location` and make them searchable; raises ArtefactError.

    `dtype` float16 takes half the memory, and a similarity is then off by up to 0.0005.
    """
    prepare = _normalise_and_round if dtype == "float16" else _normalise
    embeddings = read_embeddings(location, prepare, by_class=True)
    if embeddings.mark is None and not allow_unmarked:
        raise ArtefactError("the index does not say which CLIP made it; pass --allow_unmarked on to take it")
    return ExactIndex(embeddings)


def cut(slices: Sequence[Slice], parts: int) -> list[list[Slice]]:
    """The same rows in up to `parts` lists, of as many rows each as can be."""
    most = -(-sum(last - first for first, last in slices) // parts)
    lists: list[list[Slice]] = [[]]
    room = most
    for first, last in slices:
        while first < last:
            if not room:
                lists.append([])
                room = most
            end = min(last, first + room)
            lists[-1].append((first, end))
            first, room = end, room - (end - first)
    return lists


def _normalise(vectors: Floats) -> Floats:
    """Rows divided by their lengths, in float64; rows of zeros stay."""
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)  # [rows, 1]
    return (vectors / np.where(norms == 0, 1, norms)).astype(np.float32)


def _normalise_and_round(vectors: Floats) -> NDArray[np.float16]:
    """Unit vectors of float16: of any length they might not fit into its range."""
    return _normalise(vectors).astype(np.float16)


def _multiply_rows(rows: Floats, query: Floats) -> Floats:
    """[N, D] by [D], with BLAS's product of two vectors once a row: on AMD that of a matrix and a vector is slower."""
    products: Floats = np.vecdot(rows, query)
    return products


def _unit(embedding: Floats) -> NDArray[np.float64]:
    query = embedding.astype(np.float64)
    norm = float(np.sqrt(query @ query))
    if not np.isfinite(norm):
        raise ServiceError("the embedding of the picture has values that are not finite")
    return query / norm if norm else query
