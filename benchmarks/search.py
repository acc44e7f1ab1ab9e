"""`python -m benchmarks.search`: loading an index and searching it, against libraries, a full scan and Python rows."""

import functools
import multiprocessing
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.rounds import (
    Rounds,
    describe_machine,
    median_of,
    ratio,
    show_machine,
    show_table,
    time_rounds,
    write_results,
)
from benchmarks.searchers import Bytes, FaissFlat, FullScan, PythonRows, USearchExact
from contract import ClipMark, Floats
from embeddings import write_embeddings_part
from serving.program import run_program
from serving.settings import at_least, load_settings, setting
from transformer.search import load_index

MOST_PYTHON_ROWS = 100_000  # of which 20,000 take 400 MB
OURS, FULL_SCAN, PYTHON_ROWS, HALVES = "ours", "numpy, full scan", "Python rows", "ours, float16"
FAISS, USEARCH = "faiss, flat", "usearch, exact"
PEERS = {FAISS: FaissFlat, USEARCH: USearchExact}
ENVIRONMENT = Path(".bench/search")  # of the peers: make bench-peers
READING, COPYING = "reading the rows' bytes", "copying the rows' bytes"  # what memory alone takes


@dataclass(frozen=True)
class SearchSettings:
    """Time the search among the rows of some classes, and the loading of the index, in several ways."""

    rows: int = setting(20_000, "rows of the index; Python rows are left out above 100000", parse=at_least(100))
    dim: int = setting(512, "numbers in an embedding", parse=at_least(1))
    classes: int = setting(120, "classes of the index", parse=at_least(1))
    chosen: int = setting(3, "classes that one query searches in", parse=at_least(1))
    n: int = setting(5, "matches that one query wants", parse=at_least(1))
    rounds: int = setting(15, "rounds, in each of which every way takes its turn", parse=at_least(1))


@dataclass(frozen=True)
class Question:
    """One embedding, and the classes to search in."""

    embedding: Floats  # [D]
    classes: list[str]


def main(argv: Sequence[str], environ: Mapping[str, str]) -> None:
    """Make an index, check that all ways find the same, time them, print and write the figures."""
    settings = load_settings(SearchSettings, "python -m benchmarks.search", "BENCH_", argv, environ)
    with tempfile.TemporaryDirectory() as folder:
        write_index(settings, Path(folder))
        loaders: dict[str, Callable[[str], Any]] = {OURS: load_index, HALVES: load_halves}
        loaders |= {**_find_peers(), FULL_SCAN: FullScan, PYTHON_ROWS: PythonRows}
        if settings.rows > MOST_PYTHON_ROWS:
            del loaders[PYTHON_ROWS]
        memory = {name: measure_memory(loader, folder) for name, loader in loaders.items()}
        loading = time_rounds(_bind(loaders, folder), min(settings.rounds, 5), "load")
        searching = _time_queries({name: loader(folder) for name, loader in loaders.items()}, settings)
    libraries = ("faiss-cpu", "usearch") if FAISS in loaders else ()
    machine = describe_machine("numpy", "pyarrow", *libraries)
    figures = {"settings": asdict(settings), "machine": machine, "memory_bytes": memory}
    file = write_results("search", {**figures, "load_seconds": loading, "query_seconds": searching})
    print(f"{settings.rows} x {settings.dim} in {settings.classes} classes, {settings.chosen} of them searched")
    print(f"{show_machine(machine)}\n\n{show(loading, searching, memory)}\n\nevery round: {file}")


def _find_peers() -> Mapping[str, Callable[[str], Any]]:
    """Those whose packages are there, which are made importable, also in processes that are started from here."""
    if not (ENVIRONMENT / "installed").exists():
        print(f"skipped: {', '.join(PEERS)}: make bench-peers installs them", file=sys.stderr)
        return {}
    sys.path += map(str, ENVIRONMENT.resolve().glob("lib/python*/site-packages"))
    return PEERS


def _bind(loaders: Mapping[str, Callable[[str], object]], folder: str) -> dict[str, Callable[[], object]]:
    return {name: functools.partial(load, folder) for name, load in loaders.items()}


def load_halves(folder: str) -> Any:
    """Ours in half the memory."""
    return load_index(folder, dtype="float16")


def write_index(settings: SearchSettings, folder: Path) -> None:
    """Random embeddings around a centre of each class, in parts of 8192 rows, as transformer.embed writes them."""
    random = np.random.default_rng(0)
    centres = random.normal(size=(settings.classes, settings.dim))
    mark = ClipMark("0" * 16, "benchmark", settings.dim, True)
    for part, first in enumerate(range(0, settings.rows, 8192)):
        codes = random.integers(0, settings.classes, min(8192, settings.rows - first))
        vectors = (centres[codes] + random.normal(size=(len(codes), settings.dim))).astype(np.float32)
        classes = [f"class_{code:03}" for code in codes]
        paths = [f"{name}/{first + i:08}.jpg" for i, name in enumerate(classes)]
        write_embeddings_part(folder / f"part-{part:05}.parquet", paths, classes, vectors, mark)


def _time_queries(engines: Mapping[str, Any], settings: SearchSettings) -> Rounds:
    questions = _ask(settings)
    whole = {name: engine for name, engine in engines.items() if name != HALVES}  # which may swap near neighbours
    for question in questions:
        found = {name: _paths(engine, question, settings.n) for name, engine in whole.items()}
        assert len({tuple(paths) for paths in found.values()}) == 1, f"they do not agree: {found}"
    following = {name: iter(questions * 100_000) for name in engines}

    def way(name: str, engine: Any) -> Callable[[], object]:
        def search() -> object:
            question = next(following[name])
            return engine.search(question.embedding, question.classes, settings.n)

        return search

    rows_of_a_query = max(1, settings.rows * min(settings.chosen, settings.classes) // settings.classes)
    memory = Bytes(settings.rows, rows_of_a_query, settings.dim)
    ways = {name: way(name, engine) for name, engine in engines.items()} | {READING: memory.read, COPYING: memory.copy}
    return time_rounds(ways, settings.rounds, "search")


def _ask(settings: SearchSettings, count: int = 50) -> list[Question]:
    random = np.random.default_rng(1)
    names = [f"class_{code:03}" for code in range(settings.classes)]
    chosen = min(settings.chosen, settings.classes)
    return [
        Question(random.normal(size=settings.dim).astype(np.float32), random.choice(names, chosen, False).tolist())
        for _ in range(count)
    ]


def _paths(engine: Any, question: Question, n: int) -> list[str]:
    return [getattr(match, "path", match) for match in engine.search(question.embedding, question.classes, n)]


def measure_memory(loader: Callable[[str], object], folder: str) -> int:
    """Bytes that loading adds to the largest memory of a fresh process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as fresh:
        return fresh.submit(_peak_of, loader, folder).result()


def _peak_of(loader: Callable[[str], object], folder: str) -> int:
    before = _peak()
    kept = loader(folder)
    added = _peak() - before
    del kept
    return added


def _peak() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def show(loading: Rounds, searching: Rounds, memory: Mapping[str, int]) -> str:
    """The table for a person."""
    rows = [
        [
            name,
            f"{median_of(searching[name]) * 1e6:,.0f} µs",
            f"{ratio(searching, name, OURS):.1f}",
            f"{median_of(loading[name]):.2f} s" if name in loading else "",
            f"{ratio(loading, name, OURS):.1f}" if name in loading else "",
            f"{memory[name] / 1e6:,.0f} MB" if name in memory else "",
        ]
        for name in searching
    ]
    return show_table(["", "query", "times ours", "load", "times ours", "memory"], rows)


if __name__ == "__main__":
    if sys.platform != "linux":
        sys.exit("the memory is read from /proc: run this on Linux")
    run_program(main)
