"""`python -m benchmarks.sweep`: which of its settings serves each peer best; `--write on` makes them its settings."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.flags import check_names, split_names
from benchmarks.plans import Part
from benchmarks.rounds import Results, describe_machine, show_machine, show_table, stop_at_signals
from benchmarks.serve_table import is_sound, median
from benchmarks.systems import CHOSEN, CHOSEN_WITH_OURS, LEVEL, SETTINGS, TRIED, System, list_systems, read_settings
from benchmarks.trial import Trial, picture_host
from benchmarks.workload import Workload, make_workload
from serving.program import run_program
from serving.settings import at_least, load_settings, setting

WITH_OURS = ", OpenVINO fp32"


@dataclass(frozen=True)
class SweepSettings:
    """Try three settings of each peer, with its users' default engine and with ours."""

    seconds: float = setting(5.0, "of each measurement", parse=at_least(1, float))
    rounds: int = setting(2, "rounds, in each of which every setting takes its turn", parse=at_least(1))
    peers: tuple[str, ...] = setting((), "only these, separated by semicolons", parse=split_names)
    write: bool = setting(False, f"write the best ones to {SETTINGS}")


def main(argv: Sequence[str], environ: Mapping[str, str]) -> None:
    """Measure, print and write down."""
    settings = load_settings(SweepSettings, "python -m benchmarks.sweep", "BENCH_", argv, environ)
    stop_at_signals()
    workload, known = make_workload(), read_settings()
    swept = [name for name in list_systems(workload) if name.removesuffix(WITH_OURS) in known]
    check_names("--peers", settings.peers, swept)
    part = Part(concurrency=(LEVEL,), seconds=settings.seconds, rounds=settings.rounds, compared=2)
    results, machine = Results("sweep"), describe_machine("torch", "openvino")
    wanted = settings.peers or swept
    trials = {name: _sweep_trials(part, workload, known[name.removesuffix(WITH_OURS)]) for name in wanted}
    try:
        _measure(part, workload, trials, lambda: results.write({"machine": machine, "systems": _describe(trials)}))
    finally:
        print(show_machine(machine))
        print(show_table(("system", "settings", "requests/s", "core-ms"), _rows(trials)))
        print(results.file)
    if settings.write:
        SETTINGS.write_text(json.dumps(_choose(known, trials), indent=2) + "\n")


Trials = Mapping[str, Sequence[tuple[Mapping[str, Any], Trial]]]  # of each system: settings and what came of them


def _sweep_trials(part: Part, workload: Workload, entry: Mapping[str, Any]) -> list[tuple[Mapping[str, Any], Trial]]:
    return [(tried, Trial(part, workload)) for tried in entry[TRIED]]


def _measure(part: Part, workload: Workload, trials: Trials, keep: Any) -> None:
    systems = list_systems(workload)
    with picture_host(workload.pictures(part.pictures)) as host:
        for number in range(part.rounds):
            for name, tries in trials.items():
                for tried, trial in tries:
                    print(f"round {number + 1}: {name} {json.dumps(tried)}", file=sys.stderr, flush=True)
                    trial.measure(_with_settings(systems[name], tried), host)
                    keep()


def _with_settings(system: System, tried: Mapping[str, Any]) -> System:
    return replace(system, environ={**system.environ, "SETTINGS": json.dumps(tried)})


def _per_second(name: str, trial: Trial) -> float:
    """0 where a request failed."""
    levels = [one["levels"][str(LEVEL)] for one in trial.rounds.get(name, ())]
    return median(levels, "per_second") if levels and is_sound(levels) else 0.0


def _rows(trials: Trials) -> list[Sequence[str]]:
    rows: list[Sequence[str]] = []
    for name, tries in trials.items():
        for tried, trial in tries:
            levels = [one["levels"][str(LEVEL)] for one in trial.rounds.get(name, ())]
            cost = f"{median(levels, 'core_ms'):.1f}" if levels else trial.skipped.get(name, "")[:60]
            rows.append((name, json.dumps(tried), f"{_per_second(name, trial):.1f}", cost))
    return rows


def _describe(trials: Trials) -> Mapping[str, Any]:
    return {
        name: [
            {"settings": tried, "rounds": trial.rounds.get(name, []), "skipped": trial.skipped.get(name, "")}
            for tried, trial in tries
        ]
        for name, tries in trials.items()
    }


def _choose(known: dict[str, Any], trials: Trials) -> dict[str, Any]:
    """The settings with the best ones chosen, where any was measured."""
    for name, tries in trials.items():
        figures = [_per_second(name, trial) for _, trial in tries]
        if max(figures) > 0:
            key = CHOSEN_WITH_OURS if name.endswith(WITH_OURS) else CHOSEN
            known[name.removesuffix(WITH_OURS)][key] = figures.index(max(figures))
    return known


if __name__ == "__main__":
    run_program(main)
