"""`python -m benchmarks.pairs`: ours beside each of the others, in turn within seconds.

Both of a pair are started, and one is stopped by the kernel while the other is asked, so that a machine whose speed
changes by the minute moves both.
"""

import asyncio
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import uvloop

from benchmarks.flags import check_names, split_levels, split_names
from benchmarks.http_load import summarize
from benchmarks.metering import Meter
from benchmarks.open_loop import Outcome
from benchmarks.paired import SIDES, show_pairs
from benchmarks.rounds import Results, describe_machine, show_machine, stop_at_signals
from benchmarks.starting import LOGS
from benchmarks.systems import EQUALS, IN_BATCHES, LEVEL, WITH_OUR_ENGINE, System, list_systems
from benchmarks.trial import FAILURES, WARM_UP, PictureHost, picture_host
from benchmarks.workload import PRECISIONS, SMALL, Workload, make_workload
from serving.errors import ArtefactError
from serving.program import run_program
from serving.settings import at_least, load_settings, setting

SLICE = 4.0  # seconds, after which it is the other's turn
PAIRS = (  # at every level
    *(("ours, OpenVINO fp32", f"{peer}, OpenVINO fp32") for peer in WITH_OUR_ENGINE),
    *(("ours, OpenVINO fp32", peer) for peer in EQUALS),
)
PAIRS_AT_8 = (  # at that level only
    *(("ours, OpenVINO bf16", f"{peer}, OpenVINO bf16") for peer in WITH_OUR_ENGINE),
    *(("ours, torch fp32", peer) for peer in IN_BATCHES),
    *((f"ours, OpenVINO {precision}", "Ray, mended") for precision in PRECISIONS),
)


@dataclass(frozen=True)
class PairsSettings:
    """Ask ours and one other in turn; Ctrl-C ends it with what was measured."""

    others: tuple[str, ...] = setting(
        (), "only beside these, as benchmarks.serve names them, separated by semicolons", parse=split_names
    )
    concurrency: tuple[int, ...] = setting(
        (1, 8, 32), "requests at a time, with commas; some pairs only at 8", parse=split_levels
    )
    seconds: float = setting(12.0, "that each of a pair is asked at each level", parse=at_least(1, float))
    rounds: int = setting(1, "times that each pair is started", parse=at_least(1))


def main(argv: Sequence[str], environ: Mapping[str, str]) -> None:
    """Measure, print and write every slice."""
    settings = load_settings(PairsSettings, "python -m benchmarks.pairs", "BENCH_", argv, environ)
    stop_at_signals()
    check_names("--others", settings.others, dict.fromkeys(other for _, other in (*PAIRS, *PAIRS_AT_8)))
    results = Results("pairs" if settings == PairsSettings() else "pairs-part")  # the page has whole ones
    figures: dict[str, Any] = {"machine": describe_machine("torch", "openvino"), "levels": [], "skipped": {}}
    try:
        _measure_all(settings, figures, lambda: results.write(figures))
    finally:  # what was measured before Ctrl-C is worth having
        print(show_machine(figures["machine"]))
        print(show_pairs(figures))
        for names, reason in figures["skipped"].items():
            print(f"skipped {names}: {reason}")
        print(results.file)
    if not figures["levels"]:
        raise ArtefactError("nothing could be measured: make bench-peers")


def _measure_all(settings: PairsSettings, figures: dict[str, Any], keep: Callable[[], object]) -> None:
    """Add each pair's levels to the figures, or the reason why it is skipped."""
    workload = make_workload()
    with picture_host(workload.pictures(SMALL)) as host:
        for ours, other in settings.rounds * _choose_pairs(settings):
            print(f"{ours} beside {other}", file=sys.stderr, flush=True)
            try:
                for level in _measure(ours, other, workload, host, settings):
                    figures["levels"].append(level)
                    keep()
            except (ArtefactError, *FAILURES) as error:  # others can be measured all the same
                reason = " ".join(str(error).split())[:500] or type(error).__name__
                figures["skipped"][f"{ours} beside {other}"] = reason
                keep()


def _choose_pairs(settings: PairsSettings) -> list[tuple[str, str]]:
    """Those that have a level to be measured at."""
    pairs = (*PAIRS, *PAIRS_AT_8) if LEVEL in settings.concurrency else PAIRS
    return [pair for pair in pairs if not settings.others or pair[1] in settings.others]


class _Side:
    """One of a pair, which is stopped but for its turns."""

    def __init__(self, system: System, address: str, meter: Meter, urls: Sequence[str]) -> None:
        self._system, self._address, self._meter, self._urls = system, address, meter, urls

    def ask(self, at_once: int, seconds: float) -> tuple[Outcome, float]:
        """What became of its requests, and the seconds of cores that it took; raises ArtefactError if one failed."""
        with self._meter.resumed(), asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
            before = self._meter.cpu_seconds()
            client = self._system.open_client(self._address, self._urls)
            outcome = loop.run(client.find_capacity(at_once, seconds))
            loop.run(client.close())  # a server that is stopped may find its connections too old afterwards
            used = self._meter.cpu_seconds() - before
        if set(outcome.taken) != {200}:
            counts = {status: len(taken) for status, taken in outcome.taken.items()}
            raise ArtefactError(
                f"{self._system.name} did not answer all: {counts} by status, 0 where it ended; see {LOGS}"
            )
        return outcome, used


def _measure(
    ours: str, other: str, workload: Workload, host: PictureHost, settings: PairsSettings
) -> Iterator[dict[str, Any]]:
    """Each level of two systems that are started for them."""
    systems, pair = list_systems(workload), (ours, other)
    with ExitStack() as stack:
        sides = [stack.enter_context(_starting(systems[name], workload, host)) for name in pair]
        for at_once in settings.concurrency if pair in PAIRS else (LEVEL,):
            turns = range(math.ceil(settings.seconds / SLICE))
            slices = [[side.ask(at_once, SLICE) for side in sides] for _ in turns]
            pooled = {name: _pool(parts) for name, parts in zip(SIDES, zip(*slices, strict=True), strict=True)}
            rates = [[_rate(outcome) for outcome, _ in parts] for parts in slices]
            yield {"ours": ours, "other": other, "at_once": at_once, "slices": rates, "sides": pooled}


@contextmanager
def _starting(system: System, workload: Workload, host: PictureHost) -> Iterator[_Side]:
    """A warm system that is stopped until it is asked."""
    folder = system.exported
    if folder and not folder.exists():
        raise ArtefactError(f"no {folder.name}: this processor or requirements/export.txt lacks what it takes")
    with system.running(workload) as (address, meter):
        system.wait_until_ready(address, host.urls[0], meter)
        side = _Side(system, address, meter, host.urls)
        with meter.suspended():
            side.ask(*WARM_UP)
            yield side


def _rate(outcome: Outcome) -> float:
    return len(outcome.taken[200]) / outcome.seconds


def _pool(parts: Sequence[tuple[Outcome, float]]) -> dict[str, float]:
    """Of all slices together."""
    whole = Outcome(0, sum(outcome.seconds for outcome, _ in parts))
    for outcome, _ in parts:
        for milliseconds in outcome.taken[200]:
            whole.add(200, milliseconds)
    found, used = summarize(whole), sum(seconds for _, seconds in parts)
    count = found["requests"]
    core_ms = 1000 * used / count
    return {"requests": count, "per_second": _rate(whole), "p50": found["p50"], "p99": found["p99"], "core_ms": core_ms}


if __name__ == "__main__":
    run_program(main)
