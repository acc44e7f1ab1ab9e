"""The search is exact: what a full scan in float64 finds, in the same order, within the memory of one matrix."""

import asyncio
import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import transformer.search
from contract import ClipMark, Floats, Pixels, Prediction
from embeddings import write_embeddings_part
from serving.call import Call
from serving.deadline import Deadline
from serving.errors import ServiceError
from serving.metrics import TransformerMetrics
from tests.stand_ins import CLASSES, MARK, SIZE, classify, draw
from transformer.answer import Query
from transformer.decode_pool import DecodeMemory, DecodePool
from transformer.limits import PictureLimits
from transformer.pipeline import Pipeline
from transformer.search import FEW_NUMBERS, ExactIndex, Index, Match, cut, load_index


def make(matrix: NDArray[Any], classes: Sequence[str], dtype: str = "float32") -> ExactIndex:
    """Loaded from a file; the paths are the row numbers."""
    mark = ClipMark("0" * 16, "any", matrix.shape[1], True)
    with tempfile.TemporaryDirectory() as folder:
        paths = [str(row) for row in range(len(classes))]
        write_embeddings_part(Path(folder) / "0.parquet", paths, classes, matrix, mark)
        return load_index(folder, dtype=dtype)


def full_scan(
    matrix: NDArray[Any], classes: Sequence[str], query: NDArray[Any], wanted: Sequence[str], n: int
) -> list[tuple[int, float]]:
    """Rows and their cosines by the definition, in float64; equal ones in row order."""
    rows, asked = matrix.astype(np.float64), query.astype(np.float64)
    norms = np.linalg.norm(rows, axis=1) * np.linalg.norm(asked)
    cosines = np.divide(rows @ asked, norms, out=np.zeros(len(rows)), where=norms > 0)
    chosen = [row for row, name in enumerate(classes) if name in wanted]
    ranked = sorted(chosen, key=lambda row: (-round(cosines[row], 12), row))
    return [(row, cosines[row]) for row in ranked[:n]]


def rows_of(matches: Sequence[Match]) -> list[int]:
    return [int(match.path) for match in matches]


NAMES = "abcde"
# Whole numbers up to 3 in few dimensions: many rows are equal, parallel, opposite or zero.
TABLES = st.lists(st.tuples(st.sampled_from(NAMES), st.tuples(*[st.integers(-3, 3)] * 3)), min_size=1, max_size=60)


@given(
    TABLES,
    st.tuples(*[st.integers(-3, 3)] * 3),
    st.lists(st.sampled_from(NAMES + "xy"), max_size=6),
    st.integers(0, 9),
    st.booleans(),
)
@settings(max_examples=300, deadline=None)
def test_the_answer_is_that_of_a_full_scan(
    table: list[tuple[str, tuple[int, ...]]], query: tuple[int, ...], wanted: list[str], n: int, threads: bool
) -> None:
    classes, matrix = [name for name, _ in table], np.array([row for _, row in table], np.float32)
    asked = np.array(query, np.float32)
    expected = full_scan(matrix, classes, asked, wanted, n)
    with (
        patch.object(transformer.search, "FEW_NUMBERS", 0 if threads else FEW_NUMBERS),
        patch.object(transformer.search, "cpu_limit", lambda: 3),
    ):
        found = make(matrix, classes).search(asked, wanted, n)
    assert len(found) == len(expected)
    np.testing.assert_allclose([match.similarity for match in found], [cosine for _, cosine in expected], atol=2e-7)
    assert all(match.label == classes[int(match.path)] for match in found)
    # Parallel rows of different lengths may differ in the last digit once they are normalised; equal rows may not.
    for one, other in pairwise(found):
        assert one.similarity >= other.similarity
        if np.array_equal(matrix[int(one.path)], matrix[int(other.path)]):
            assert int(one.path) < int(other.path)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_a_large_index_gives_exactly_the_order_of_a_full_scan(scale: float) -> None:
    random = np.random.default_rng(5)
    matrix = (random.normal(size=(6000, 96)) * random.uniform(0.1, 10, (6000, 1)) * scale).astype(np.float32)
    classes = [f"class {code}" for code in random.integers(0, 40, 6000)]
    index = make(matrix, classes)
    assert (index.rows, index.dim, index.classes) == (6000, 96, tuple(sorted(set(classes))))
    for _ in range(15):
        query = random.normal(size=96).astype(np.float32)
        wanted = [f"class {code}" for code in random.choice(50, random.integers(1, 30), replace=False)]
        found, expected = index.search(query, wanted, 20), full_scan(matrix, classes, query, wanted, 20)
        assert rows_of(found) == [row for row, _ in expected]
        np.testing.assert_allclose([match.similarity for match in found], [cosine for _, cosine in expected], atol=2e-7)


def test_rows_that_differ_by_less_than_a_float32_product_can_tell_are_ranked_rightly() -> None:
    """The best by a plain float32 matrix product are not the best here."""
    random = np.random.default_rng(1)
    centre = random.normal(size=512)
    matrix = (centre + random.normal(size=(4000, 512)) * 2e-4).astype(np.float32)
    classes = ["a", "b"] * 2000
    query = (centre + random.normal(size=512) * 1e-3).astype(np.float32)
    cosines = dict(full_scan(matrix, classes, query, "ab", 4000))
    found = rows_of(make(matrix, classes).search(query, ["a", "b"], 5))
    units = matrix / np.linalg.norm(matrix, axis=1, keepdims=True)
    plain = np.argsort(-(units @ (query / np.linalg.norm(query))), kind="stable")[:5].tolist()
    best = sorted(cosines.values(), reverse=True)[:5]
    lost = [max(abs(cosines[row] - wanted) for row, wanted in zip(rows, best, strict=True)) for rows in (found, plain)]
    assert lost[0] < 3e-8 < lost[1]  # half a unit in the last place of a float32 just below 1


def test_ties_go_by_row_order_in_the_files_whatever_class_or_place_they_have() -> None:
    random = np.random.default_rng(2)
    matrix = np.tile(random.normal(size=96).astype(np.float32), (2000, 1))
    matrix[::7] = random.normal(size=(len(matrix[::7]), 96))  # BLAS rounds a row by its neighbours and its place
    classes = [("d", "b", "c", "a")[row % 4] for row in range(2000)]
    query = matrix[1].copy()
    index = make(matrix, classes)
    equal = [row for row in range(2000) if row % 7 and classes[row] in "acd"]
    found = index.search(query, ["d", "a", "c"], 500)
    assert rows_of(found) == equal[:500]
    assert len({match.similarity for match in found}) == 1
    assert found[0].similarity == pytest.approx(1, abs=2e-7)


@given(st.lists(st.integers(1, 50), min_size=2, max_size=12), st.integers(1, 5))
def test_parts_have_all_rows_in_order_and_none_is_longer_than_its_share(lengths: list[int], parts: int) -> None:
    bounds = [sum(lengths[:i]) for i in range(len(lengths) + 1)]
    slices = list(pairwise(bounds))[::2]  # with gaps between them
    rows = [row for first, last in slices for row in range(first, last)]
    shares = [[row for first, last in part for row in range(first, last)] for part in cut(slices, parts)]
    assert [row for share in shares for row in share] == rows
    assert len(shares) <= parts
    assert max(map(len, shares)) == -(-len(rows) // parts)


def test_fewer_rows_than_asked_for_give_fewer_matches() -> None:
    index = make(np.eye(3, dtype=np.float32), ["a", "a", "b"])
    query = np.array([0, 1, 2], np.float32)
    assert rows_of(index.search(query, ["a"], 5)) == [1, 0]
    assert rows_of(index.search(query, ["b", "a", "a", "b"], 100)) == [2, 1, 0]  # a class named twice counts once
    assert index.search(query, ["unknown"], 5) == index.search(query, [], 5) == index.search(query, ["a"], 0) == []
    assert rows_of(index.search(query, ["unknown", "b"], 5)) == [2]


def test_zeros_are_like_nothing_and_come_in_row_order() -> None:
    matrix = np.array([[0, 0], [1, 0], [-1, 0], [0, 0]], np.float32)
    index = make(matrix, ["b", "a", "a", "a"])
    assert rows_of(index.search(np.array([2, 0], np.float32), ["a", "b"], 4)) == [1, 0, 3, 2]
    nothing = index.search(np.zeros(2, np.float32), ["a", "b"], 4)
    assert rows_of(nothing) == [0, 1, 2, 3] and {match.similarity for match in nothing} == {0.0}


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_embedding_that_is_not_finite_is_an_error_not_a_match(value: float) -> None:
    index = make(np.eye(2, dtype=np.float32), ["a", "a"])
    with pytest.raises(ServiceError, match="not finite"):
        index.search(np.array([1, value], np.float32), ["a"], 1)


MEASURE = """
import json, sys
from transformer.search import load_index

def peak():
    text = open("/proc/self/status").read()
    return int(text.split("VmHWM:")[1].split()[0]) * 1024

before = peak()
index = load_index(sys.argv[1], dtype=sys.argv[2])
print(json.dumps({"peak": peak() - before, "matrix": index.rows * index.dim * int(sys.argv[2][5:]) // 8}))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of memory from /proc")
def test_loading_needs_little_more_memory_than_the_matrix(tmp_path: Path) -> None:
    random = np.random.default_rng(4)
    mark = ClipMark("0" * 16, "any", 512, True)
    for part in range(5):
        rows = random.standard_normal((16_384, 512), np.float32)
        classes = [f"class {code}" for code in random.integers(0, 100, len(rows))]
        paths = [f"{name}/{part}-{row}.jpg" for row, name in enumerate(classes)]
        write_embeddings_part(tmp_path / f"{part}.parquet", paths, classes, rows, mark)
    for dtype, megabytes in (("float32", 167.772160), ("float16", 83.886080)):
        command = [sys.executable, "-c", MEASURE, str(tmp_path), dtype]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        measured = json.loads(done.stdout)
        assert measured["matrix"] == megabytes * 1e6
        # Some 100 MB are libraries and a batch on its way; a second matrix would be 168 MB more.
        assert measured["peak"] < measured["matrix"] + 160e6, measured


def test_halves_are_searched_exactly_and_are_near_the_whole_numbers() -> None:
    random = np.random.default_rng(5)
    centres = random.normal(size=(5, 96))
    codes = random.integers(0, 5, 4000)
    matrix = (1e5 * (centres[codes] + 0.6 * random.normal(size=(4000, 96)))).astype(np.float32)  # beyond its range
    matrix[7] = 0
    classes = [NAMES[code] for code in codes]
    whole, halves = make(matrix, classes), make(matrix, classes, "float16")
    rounded = (matrix / np.maximum(np.linalg.norm(matrix.astype(np.float64), axis=1, keepdims=True), 1e-9)).astype(
        np.float16
    )
    queries, same = random.normal(size=(40, 96)).astype(np.float32), []
    for query in queries:
        unit = query.astype(np.float64) / np.linalg.norm(query.astype(np.float64))
        products = (rounded.astype(np.float64) @ unit).astype(np.float32)
        chosen = np.flatnonzero(np.isin(classes, ["a", "d"]))
        expected = chosen[np.argsort(-products[chosen], kind="stable")[:10]].tolist()
        found = halves.search(query, ["a", "d"], 10)
        assert rows_of(found) == expected, "exact among the rounded rows"
        wanted = {match.path: match.similarity for match in whole.search(query, ["a", "d"], 20)}
        assert all(abs(match.similarity - wanted.get(match.path, match.similarity)) < 5e-4 for match in found)
        same.append(len(set(rows_of(found)) & {int(path) for path in list(wanted)[:10]}))
    assert np.mean(same) >= 9.9


class OneMatch:
    """Another engine."""

    mark: ClipMark | None = MARK
    classes = CLASSES
    dim = MARK.dim
    rows = 1

    def __init__(self, *, quick: bool = False) -> None:
        self.asked: list[tuple[list[float], list[str], int]] = []
        self.threads: list[str] = []
        self._quick = quick

    def is_quick(self, classes: Sequence[str]) -> bool:
        return self._quick

    def search(self, embedding: Floats, classes: Sequence[str], n: int) -> list[Match]:
        self.asked.append((embedding.round(1).tolist(), list(classes), n))
        self.threads.append(threading.current_thread().name)
        return [Match("red", "elsewhere.jpg", 0.5)]


class Colours:
    async def predict(self, pixels: Pixels, call: Call) -> Prediction:
        return classify(pixels)


async def fetch(url: str, deadline: Deadline) -> bytes:
    raise AssertionError("nothing is to be fetched")


def test_another_engine_can_take_its_place() -> None:
    index = OneMatch()
    engine: Index = index  # mypy checks that it is one
    pool = DecodePool("decode", 1, 4, DecodeMemory(0))
    pipeline = Pipeline(engine, Colours(), fetch, pool, SIZE, PictureLimits(), TransformerMetrics())
    queries = [Query(draw("red"), k=2, n=3), Query(draw("blue"), k=1, n=7)]
    answer = asyncio.run(pipeline.answer(queries, Call(Deadline.after(30))))
    pool.close()
    assert answer.matches == [[Match("red", "elsewhere.jpg", 0.5)]] * 2
    assert [(classes[0], n) for _, classes, n in index.asked] == [("red", 3), ("blue", 7)]
    assert [len(classes) for _, classes, _ in index.asked] == [2, 1]
    assert index.asked[0][0] == [1.0, 0.0, 0.0, 1.0]


@pytest.mark.parametrize(("quick", "pictures", "here"), [(True, 1, True), (False, 1, False), (True, 2, False)])
def test_only_one_quick_search_runs_in_the_event_loop(quick: bool, pictures: int, here: bool) -> None:
    index = OneMatch(quick=quick)
    pool = DecodePool("decode", 1, 4, DecodeMemory(0))
    pipeline = Pipeline(index, Colours(), fetch, pool, SIZE, PictureLimits(), TransformerMetrics())
    asyncio.run(pipeline.answer([Query(draw("red"), k=2, n=3)] * pictures, Call(Deadline.after(30))))
    pipeline.close()
    assert {name == threading.current_thread().name for name in index.threads} == {here}


def test_what_is_quick_to_search() -> None:
    few = FEW_NUMBERS // 64
    matrix, classes = np.ones((2 * few + 1, 64), np.float32), ["few"] * few + ["more"] * (few + 1)
    index = make(matrix, classes)
    assert index.is_quick(["few"])
    assert index.is_quick(["unknown"])
    assert not index.is_quick(["more"])
    assert not make(matrix, classes, "float16").is_quick(["few"]), "each of its numbers has to be widened"


def test_what_is_loaded_is_searched_in_the_order_of_the_files(tmp_path: Path) -> None:
    same = np.ones((3, 4), np.float32)
    for part, classes in enumerate([["b", "a", "b"], ["a", "b", "a"]]):
        paths = [f"{part}{row}" for row in range(3)]
        write_embeddings_part(tmp_path / f"{part}.parquet", paths, classes, same, ClipMark("0" * 16, "any", 4, False))
    index = load_index(str(tmp_path))
    assert [match.path for match in index.search(same[0], ["a", "b"], 6)] == ["00", "01", "02", "10", "11", "12"]
    assert [match.path for match in index.search(same[0], ["a"], 6)] == ["01", "10", "12"]
    assert index.mark == ClipMark("0" * 16, "any", 4, False)
