"""`python -m benchmarks.pairs`: ours beside each of the others, in turn within seconds.

Both of a pair are started, and one is stopped by the kernel while the other is asked, so that a machine whose speed
changes by the minute moves both.
"""

import asyncio
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import uvloop

from benchmarks.flags import check_names, split_levels, split_names
from benchmarks.http_load import summarize
from benchmarks.metering import Meter
from benchmarks.open_loop import Outcome
from benchmarks.paired import show_pairs
from benchmarks.rounds import Results, describe_machine, show_machine, stop_at_signals
from benchmarks.systems import WITH_OUR_ENGINE, System, list_peers, list_systems
from benchmarks.trial import FAILURES, WARM_UP, PictureHost, picture_host
from benchmarks.workload import SMALL, Workload, make_workload
from serving.errors import ArtefactError
from serving.program import run_program
from serving.settings import at_least, load_settings, setting

SLICE = 4.0  # seconds, after which it is the other's turn
LEVEL = 8  # requests at a time: the level of most targets
PAIRS = (
    *(("ours, OpenVINO fp32", f"{peer}, OpenVINO fp32") for peer in WITH_OUR_ENGINE),
    *(("ours, OpenVINO fp32", peer.name) for peer in list_peers() if not peer.name.startswith("Ray")),
)
"""At every level."""
PAIRS_AT_8 = (
    *(("ours, OpenVINO bf16", f"{peer}, OpenVINO bf16") for peer in WITH_OUR_ENGINE),
    *(("ours, torch fp32", peer) for peer in ("LitServe", "BentoML", "MLServer")),
    *((f"ours, OpenVINO {precision}", "Ray, mended") for precision in ("fp32", "int8")),
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
    pairs = [pair for pair in (*PAIRS, *PAIRS_AT_8) if not settings.others or pair[1] in settings.others]
    machine, levels, skipped = describe_machine("torch", "openvino"), list[dict[str, Any]](), dict[str, str]()
    results = Results("pairs" if settings == PairsSettings() else "pairs-part")  # the page has whole ones
    workload = make_workload()
    try:
        with picture_host(workload.pictures(SMALL)) as host:
            for pair in settings.rounds * pairs:
                print(" beside ".join(pair), file=sys.stderr, flush=True)
                try:
                    at_once = [level for level in settings.concurrency if pair in PAIRS or level == LEVEL]
                    for level in _measure(pair, workload, host, at_once, settings.seconds):
                        levels.append(level)
                        results.write({"machine": machine, "levels": levels, "skipped": skipped})
                except (ArtefactError, *FAILURES) as error:  # others can be measured all the same
                    skipped[" beside ".join(pair)] = " ".join(str(error).split())[:500] or type(error).__name__
    finally:  # what was measured before Ctrl-C is worth having
        print(show_machine(machine))
        print(show_pairs({"levels": levels}))
        for names, reason in skipped.items():
            print(f"skipped {names}: {reason}")
        print(results.file)


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
            raise ArtefactError(f"{self._system.name}: not all requests were answered, by status: {counts}")
        return outcome, used


def _measure(
    pair: tuple[str, str], workload: Workload, host: PictureHost, levels: Sequence[int], seconds: float
) -> Iterator[dict[str, Any]]:
    """Each level of two systems that are started for them."""
    systems = list_systems(workload)
    with ExitStack() as stack:
        ours, other = (stack.enter_context(_starting(systems[name], workload, host)) for name in pair)
        for at_once in levels:
            count = max(1, round(seconds / SLICE))
            slices = [(ours.ask(at_once, SLICE), other.ask(at_once, SLICE)) for _ in range(count)]
            sides = {
                side: _pool(parts) for side, parts in zip(("ours", "other"), zip(*slices, strict=True), strict=True)
            }
            rates = [[_rate(outcome) for outcome, _ in parts] for parts in slices]
            yield {"ours": pair[0], "other": pair[1], "at_once": at_once, "slices": rates, "sides": sides}


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
