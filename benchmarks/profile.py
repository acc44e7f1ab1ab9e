"""`python -m benchmarks.profile`: where a request's time and the cores' time go in ours.

A request's by the lines that both servers log of it, the cores' by the kernel's count of each thread. The stages are of
the same requests, so that a machine whose speed changes moves all of them.
"""

import json
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.flags import check_names, split_levels, split_names
from benchmarks.metering import FORWARD, PARTS, Meter, measure_parts
from benchmarks.rounds import Results, describe_machine, show_machine, show_table, stop_at_signals
from benchmarks.starting import GRPC, LOGS, start_ours
from benchmarks.systems import System, list_systems
from benchmarks.trial import WARM_UP, picture_host, settle
from benchmarks.workload import SIZES, SMALL, Workload, make_workload
from serving.errors import SettingError
from serving.program import run_program
from serving.settings import at_least, load_settings, one_of, setting

# decode: with the wait for a thread; beyond: all but decode and forward, so with the queue.
STAGES = ("whole", "download", "decode", "hop", "queue", "forward", "search", "rest", "beyond")
Found = dict[str, Any]


@dataclass(frozen=True)
class ProfileSettings:
    """Ask ours, in turn, and take apart what an answer took."""

    systems: tuple[str, ...] = setting(
        ("ours, torch fp32", "ours, OpenVINO fp32", "ours, OpenVINO bf16", "ours, OpenVINO int8"),
        "ours only, as benchmarks.serve names them, separated by semicolons",
        parse=split_names,
    )
    pictures: str = setting(SMALL, ", ".join(SIZES), parse=one_of(*SIZES))
    concurrency: tuple[int, ...] = setting((1, 8), "requests at a time, with commas", parse=split_levels)
    seconds: float = setting(8.0, "of each level", parse=at_least(1, float))
    rounds: int = setting(3, "times that each is started", parse=at_least(1))


def main(argv: Sequence[str], environ: Mapping[str, str]) -> None:
    """Measure, print and write every round."""
    settings = load_settings(ProfileSettings, "python -m benchmarks.profile", "BENCH_", argv, environ)
    stop_at_signals()
    systems = {name: one for name, one in list_systems(Workload()).items() if _can_be_taken_apart(one)}
    check_names("--systems", settings.systems, systems)
    workload = make_workload(pictures=settings.pictures)
    names = [name for name in settings.systems if (folder := systems[name].exported) is None or folder.exists()]
    if not names:
        raise SettingError("--systems: name one that can be measured here")
    machine, found = describe_machine("torch", "openvino"), list[Found]()
    results = Results("profile" if settings == ProfileSettings() else "profile-part")  # the page has whole ones
    with picture_host(workload.pictures(settings.pictures)) as host:
        for name in settings.rounds * names:
            with systems[name].running(workload) as (address, meter):
                systems[name].wait_until_ready(address, host.urls[0], meter)
                for one in _measure(systems[name], address, host.urls, meter, settings):
                    found.append(one)
                    results.write({"machine": machine, "levels": found})
    print(show_machine(machine))
    print(show_levels(found))
    print(results.file)


def _can_be_taken_apart(system: System) -> bool:
    return system.start is start_ours and not system.name.endswith(GRPC)


def _measure(
    system: System, address: str, urls: Sequence[str], meter: Meter, settings: ProfileSettings
) -> Iterator[Found]:
    system.load(address, urls, *WARM_UP)
    for level in settings.concurrency:
        settle(meter)
        taken = _take_apart(system, address, urls, meter, level, settings.seconds)
        yield {"system": system.name, "at_once": level, **taken}


def _take_apart(
    system: System, address: str, urls: Sequence[str], meter: Meter, level: int, seconds: float
) -> Mapping[str, Any]:
    logs = [LOGS / f"{system.name}-{process}.log" for process in "tp"]
    begins = [log.stat().st_size for log in logs]
    before = measure_parts(meter)
    load = system.load(address, urls, level, seconds)
    after = measure_parts(meter)
    good = load["requests"] - load["not_2xx"]
    stages = list(join_lines(*(_read_lines(log, begin) for log, begin in zip(logs, begins, strict=True))))
    return {
        "per_second": good / load["seconds"],
        "milliseconds": {stage: statistics.median(one[stage] for one in stages) for stage in STAGES},
        "core_ms": {part: 1000 * (after[part] - before[part]) / good for part in PARTS},
    }


def _read_lines(log: Path, begin: int) -> Iterator[Mapping[str, Any]]:
    """Of the requests that were answered since the log had `begin` bytes."""
    with log.open("rb") as file:
        file.seek(begin)
        lines = [json.loads(line) for line in file if line.startswith(b"{")]  # libraries may say something, too
    yield from (line for line in lines if line["message"] == "request" and line["code"] == 200)


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


def group_rounds(levels: Sequence[Found]) -> dict[tuple[str, int], list[Found]]:
    """Those of each system at each level."""
    grouped: dict[tuple[str, int], list[Found]] = {}
    for one in levels:
        grouped.setdefault((one["system"], one["at_once"]), []).append(one)
    return grouped


def show_levels(levels: Sequence[Found]) -> str:
    """Two tables, medians of the rounds: milliseconds of a request, and of the cores."""
    times, costs = list[list[str]](), list[list[str]]()
    for (name, level), rounds in group_rounds(levels).items():
        times.append([name, str(level), *(_median(one["milliseconds"][stage] for one in rounds) for stage in STAGES)])
        shares = [100 * one["core_ms"][FORWARD] / sum(one["core_ms"].values()) for one in rounds]
        costs.append(
            [name, str(level), *(_median(one["core_ms"][part] for one in rounds) for part in PARTS), _median(shares)]
        )
    head = ("system", "at once")
    return f"{show_table((*head, *STAGES), times)}\n\n{show_table((*head, *PARTS, 'forward %'), costs)}"


def _median(values: Iterable[float]) -> str:
    return f"{statistics.median(values):.1f}"


if __name__ == "__main__":
    run_program(main)
