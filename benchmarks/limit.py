"""Runs `benchmarks.bare` beside a system, so that both can be measured in turn within the same minute."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from benchmarks.load import Unavailable

Figures = Mapping[str, float]
Measure = Callable[[str, float], Figures]  # what, for how many seconds: see benchmarks.bare

ALONE, RESTED, BATCHES = "alone", "rested", "batches"  # one by one, the same with rests, batches of 8


@contextmanager
def running_bare(model_dir: Path, engine: str, pictures: Path) -> Iterator[Measure]:
    """Measures the limit when it is called, and uses no core between two calls; raises Unavailable if it ends."""
    command = [sys.executable, "-m", "benchmarks.bare", str(model_dir), engine, str(pictures)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, bufsize=1) as process:
        try:
            yield _ask_through(process)
        finally:
            process.kill()
            with suppress(BrokenPipeError):  # of what it could not read any more
                assert process.stdin
                process.stdin.close()


def _ask_through(process: "subprocess.Popen[str]") -> Measure:
    assert process.stdin and process.stdout
    asking, answers = process.stdin, process.stdout

    def read() -> str:
        if line := answers.readline():
            return line
        raise Unavailable("the bare limit's process ended")

    def measure(what: str, seconds: float) -> Figures:
        with suppress(BrokenPipeError):  # it has ended, as reading finds
            asking.write(f"{what} {seconds}\n")
        return json.loads(read())  # type: ignore[no-any-return]

    read()  # a line that says that it is warm
    return measure
