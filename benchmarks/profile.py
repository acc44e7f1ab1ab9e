"""`python -m benchmarks.profile`: where a request's time and the cores' time go in ours, in turn with the bare limit.

A request's by the lines that both servers log of it, the cores' by the kernel's count of each thread. The stages are of
the same requests and *bare* is of the seconds before them, so that a machine whose speed changes moves all of them.
"""

import asyncio
import json
import statistics
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import uvloop

from benchmarks.flags import check_names, split_levels, split_names
from benchmarks.limit import ALONE, BATCHES, Measure, running_bare
from benchmarks.metering import PARTS, Meter, measure_parts
from benchmarks.open_loop import Outcome
from benchmarks.plans import BARE
from benchmarks.profiled import STAGES, show_profile
from benchmarks.rounds import Results, describe_machine, show_machine, stop_at_signals
from benchmarks.starting import LOGS
from benchmarks.systems import System, list_systems
from benchmarks.trial import FAILURES, WARM_UP, picture_host, settle
from benchmarks.workload import SIZES, SMALL, Workload, make_workload
from serving.errors import ArtefactError, SettingError
from serving.program import run_program
from serving.settings import at_least, load_settings, one_of, setting

OK = 200
SINGLE = ("decode_ms", "forward_ms")  # of one picture
SLICE = 4.0  # seconds of ours after which bare has its turn
BARE_SLICE = 2.4  # seconds: it needs fewer, because nothing has to fill up first


@dataclass(frozen=True)
class ProfileSettings:
    """Ask ours, in turn with the bare limit, and take apart what an answer took."""

    systems: tuple[str, ...] = setting(
        ("ours, torch fp32", "ours, OpenVINO fp32", "ours, OpenVINO bf16", "ours, OpenVINO int8"),
        "ours only, as benchmarks.serve names them, separated by semicolons",
        parse=split_names,
    )
    pictures: str = setting(SMALL, ", ".join(SIZES), parse=one_of(*SIZES))
    concurrency: tuple[int, ...] = setting((1, 8, 32), "requests at a time, with commas", parse=split_levels)
    seconds: float = setting(12.0, "of each level, those of bare not counted", parse=at_least(1, float))
    rounds: int = setting(3, "times that each is started", parse=at_least(1))


def main(argv: Sequence[str], environ: Mapping[str, str]) -> None:
    """Measure, print and write every round."""
    settings = load_settings(ProfileSettings, "python -m benchmarks.profile", "BENCH_", argv, environ)
    stop_at_signals()
    systems = {name: one for name, one in list_systems(Workload()).items() if _name_bare(name) in BARE}
    check_names("--systems", settings.systems, systems)
    workload = make_workload(pictures=settings.pictures)
    names = [name for name in settings.systems if (folder := systems[name].exported) is None or folder.exists()]
    if not names:
        raise SettingError("--systems: name one that can be measured here")
    machine, found = describe_machine("torch", "openvino"), list[dict[str, Any]]()
    results = Results("profile" if settings == ProfileSettings() else "profile-part")  # the page has whole ones
    with picture_host(workload.pictures(settings.pictures)) as host:
        for name in settings.rounds * names:
            print(name, file=sys.stderr, flush=True)
            try:
                for level in _measure(systems[name], workload, host.urls, settings):
                    found.append(level)
                    results.write({"machine": machine, "levels": found})
            except (ArtefactError, *FAILURES) as error:  # others can be measured all the same
                print(f"skipped: {error}", file=sys.stderr, flush=True)
    if not found:
        raise ArtefactError("nothing could be measured")
    print(show_machine(machine))
    print(show_profile({"levels": found}))
    print(results.file)


def _name_bare(system: str) -> str:
    """The limit of one of ours: the same export in the same engine; none of a name for ours over gRPC."""
    return system.replace("ours", "bare")


def _measure(
    system: System, workload: Workload, urls: Sequence[str], settings: ProfileSettings
) -> Iterator[dict[str, Any]]:
    """Each level of a system that is started for them, with its own bare limit beside it."""
    folder, engine = BARE[_name_bare(system.name)]
    pictures = workload.pictures(settings.pictures)
    with (
        system.running(workload) as (address, meter),
        running_bare(workload.root / folder, engine, pictures) as limit,
    ):
        system.wait_until_ready(address, urls[0], meter)
        with _Ours(system, address, urls, meter) as ours:
            ours.ask(*WARM_UP)
            for level in settings.concurrency:
                yield {"system": system.name, "at_once": level, **_measure_level(ours, limit, level, settings.seconds)}


def _measure_level(ours: "_Ours", limit: Measure, level: int, seconds: float) -> dict[str, Any]:
    """Bare and ours in turn until ours had its seconds; one picture each where there is one request at a time."""
    what, bare_seconds, our_seconds = (ALONE, 0.0, 0.0) if level == 1 else (BATCHES, BARE_SLICE, SLICE)
    bare, outcomes = list[Mapping[str, float]](), list[Outcome]()
    settle(ours.meter)
    ours.begin()
    while sum(outcome.seconds for outcome in outcomes) < seconds:
        bare.append(limit(what, bare_seconds))
        outcomes.append(ours.ask(level, our_seconds))
    return {"bare": pool(bare), "ours": ours.take_apart(outcomes)}


def pool(slices: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Medians of what single pictures took, means of what many did and of what they cost: as those of ours are."""
    averages = {key: statistics.median if key in SINGLE else statistics.fmean for key in slices[0]}
    return {key: average(one[key] for one in slices) for key, average in averages.items()}


class _Ours:
    """A running service of ours, and a client that keeps its connections."""

    def __init__(self, system: System, address: str, urls: Sequence[str], meter: Meter) -> None:
        self.meter = meter
        self._logs = [LOGS / f"{system.name}-{process}.log" for process in "tp"]
        self._client, self._loop = system.open_client(address, urls), asyncio.Runner(loop_factory=uvloop.new_event_loop)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.close()

    def ask(self, level: int, seconds: float) -> Outcome:
        """Until all that were asked have answered: what was left undone would cost, and count as nothing."""
        outcome = self._loop.run(self._client.find_capacity(level, seconds))
        if set(outcome.taken) != {OK}:
            counts = {status: len(taken) for status, taken in outcome.taken.items()}
            logs = ", ".join(map(str, self._logs))
            raise ArtefactError(f"not all requests were answered, by status: {counts}; see {logs}")
        return outcome

    def begin(self) -> None:
        """What is asked from now on is what `take_apart` tells of."""
        self._begins = [log.stat().st_size for log in self._logs]
        self._before = measure_parts(self.meter)

    def take_apart(self, outcomes: Sequence[Outcome]) -> dict[str, Any]:
        """Answers per second, the medians of each stage, and the core-ms of each part."""
        after = measure_parts(self.meter)
        taken = [milliseconds for outcome in outcomes for milliseconds in outcome.taken[OK]]
        settle(self.meter)  # until the last lines are written
        lines = (_read_lines(log, begin) for log, begin in zip(self._logs, self._begins, strict=True))
        stages = list(join_lines(*lines))
        return {
            "answers": len(taken),
            "taken_apart": len(stages),
            "per_second": len(taken) / sum(outcome.seconds for outcome in outcomes),
            "p50": statistics.median(taken),
            "milliseconds": {stage: statistics.median(one[stage] for one in stages) for stage in STAGES},
            "core_ms": {part: 1000 * (after[part] - self._before[part]) / len(taken) for part in PARTS},
        }


def _read_lines(log: Path, begin: int) -> Iterator[Mapping[str, Any]]:
    """Of the requests that were answered since the log had `begin` bytes."""
    with log.open("rb") as file:
        file.seek(begin)
        lines = [json.loads(line) for line in file if line.startswith(b"{")]  # libraries may say something, too
    yield from (line for line in lines if line["message"] == "request" and line["code"] == OK)


def join_lines(
    transformer: Iterable[Mapping[str, Any]], predictor: Iterable[Mapping[str, Any]]
) -> Iterator[Mapping[str, float]]:
    """The milliseconds of each stage of each request that both logged."""
    inside = {line["request_id"]: line["stages"] for line in predictor}
    for line in transformer:
        if there := inside.get(line["request_id"]):
            here, whole = line["stages"], line["milliseconds"]
            yield {
                "whole": whole,
                "download": here["fetch"],
                "decode": here["decode"],
                "hop": here["predict"] - there["queue"] - there["forward"],
                "queue": there["queue"],
                "forward": there["forward"],
                "search": here["search"],
                "rest": whole - sum(here.values()),
                "beyond": whole - here["decode"] - there["forward"],
            }


if __name__ == "__main__":
    run_program(main)
