"""Runs `benchmarks.bare` beside a system, so that both can be measured in turn within the same minute."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from benchmarks.load import Unavailable

Figures = Mapping[str, float]
Measure = Callable[[str, float], Figures]  # what, for how many seconds: see benchmarks.bare

ALONE, RESTED, BATCHES = "alone", "rested", "batches"  # one by one, the same with rests, batches of 8


@contextmanager
def running_bare(model_dir: Path, engine: str, pictures: Path) -> Iterator[Measure]:
    """Measures the limit when it is called, and uses no core between two calls; raises Unavailable if it ends."""
    command = [sys.executable, "-m", "benchmarks.bare", str(model_dir), engine, str(pictures)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
    assert process.stdin and process.stdout
    asking, answers = process.stdin, process.stdout

    def read() -> str:
        if line := answers.readline():
            return line
        raise Unavailable(f"{' '.join(command)} ended")

    def measure(what: str, seconds: float) -> Figures:
        asking.write(f"{what} {seconds}\n")
        return json.loads(read())  # type: ignore[no-any-return]

    try:
        read()
        yield measure
    finally:
        process.kill()
        process.wait()
