"""Times ways of doing the same thing in turn, round after round, and writes down every round."""

import json
import os
import platform
import signal
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tqdm import tqdm

from serving.threads import cpu_limit

RESULTS = Path(__file__).with_name("results")
ROUND_SECONDS = 0.2  # of calls that are shorter

Ways = Mapping[str, Callable[[], object]]
Rounds = dict[str, list[float]]  # seconds, for each way and round


def time_rounds(ways: Ways, rounds: int, title: str) -> Rounds:
    """Time each way once in every round, so that all see the same moods of the machine."""
    calls = {name: _calls_in_a_round(way) for name, way in ways.items()}
    seconds: Rounds = {name: [] for name in ways}
    for _ in tqdm(range(rounds), desc=title, unit=" rounds", leave=False):
        for name, way in ways.items():
            # The median call of the round: a mean would count what other processes take.
            seconds[name].append(statistics.median(_time(way) for _ in range(calls[name])))
    return seconds


def _calls_in_a_round(way: Callable[[], object]) -> int:
    way()  # the first call is often slower than all others
    return max(1, int(ROUND_SECONDS / max(_time(way), 1e-6)))


def _time(way: Callable[[], object]) -> float:
    begin = time.perf_counter()
    way()
    return time.perf_counter() - begin


def median_of(seconds: Sequence[float]) -> float:
    """The median of the rounds."""
    return statistics.median(seconds)


def ratio(rounds: Rounds, name: str, to: str) -> float:
    """How many times as long as `to` a way takes: the median of the rounds' own ratios."""
    return statistics.median(a / b for a, b in zip(rounds[name], rounds[to], strict=True))


def describe_machine(*packages: str) -> dict[str, Any]:
    """Where this was measured."""
    return {
        "processor": _processor(),
        "cores": cpu_limit(),
        "load": os.getloadavg()[0],  # above the number of cores the figures are of a busy machine
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def stop_at_signals() -> None:
    """SIGTERM, and Ctrl-C also in a background job, end the program with what was measured."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)


class Results:
    """A file of its own for what is measured, which may be written again as more is known."""

    def __init__(self, name: str) -> None:
        self.file = RESULTS / f"{name}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"

    def write(self, figures: Mapping[str, Any]) -> Path:
        """Replace the file in one step."""
        RESULTS.mkdir(exist_ok=True)
        draft = self.file.with_suffix(".draft")
        draft.write_text(json.dumps(figures, indent=1) + "\n")
        return draft.replace(self.file)


def write_results(name: str, figures: Mapping[str, Any]) -> Path:
    """Write what was measured to a file of its own."""
    return Results(name).write(figures)


def find_newest(name: str) -> Path | None:
    """The file of what was measured last."""
    return max(RESULTS.glob(f"{name}-[0-9]*Z.json"), default=None)


def read_newest(name: str) -> Any:
    """What was measured last; None where nothing was."""
    file = find_newest(name)
    return json.loads(file.read_text()) if file else None


def show_machine(machine: Mapping[str, Any]) -> str:
    """The machine in a line."""
    versions = ", ".join(f"{name} {text}" for name, text in machine["versions"].items())
    return (
        f"{machine['processor']}, {machine['cores']} cores, load {machine['load']:.1f}, {versions}, "
        f"Python {machine['python']}"
    )


def show_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table for a terminal and for Markdown alike; numbers to the right."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        return (
            "| "
            + " | ".join(
                c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))
            )
            + " |"
        )

    rule = "|" + "|".join("-" * (w + 2) if i == 0 else "-" * (w + 1) + ":" for i, w in enumerate(widths)) + "|"
    return "\n".join([line(head), rule, *map(line, rows)])
