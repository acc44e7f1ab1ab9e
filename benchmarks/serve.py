"""`python -m benchmarks.serve`: ours, the bare limit and what one would use instead, in turn on the same requests."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.flags import check_names, split_levels, split_names
from benchmarks.plans import BARE, PLANS, TAKES, Part
from benchmarks.rounds import Results, describe_machine, show_machine, stop_at_signals
from benchmarks.served import show_parts
from benchmarks.systems import list_systems
from benchmarks.trial import Trial
from benchmarks.workload import SIZES, Workload, make_workload
from serving.errors import SettingError
from serving.program import run_program
from serving.settings import load_settings, one_of, setting


def _show_plans() -> str:
    return ", ".join(f"{name} ({takes})" for name, takes in TAKES.items())


@dataclass(frozen=True)
class ServeSettings:
    """Ask every system the same, in turn, and meter it; Ctrl-C ends it with what was measured."""

    plan: str = setting("default", _show_plans(), parse=one_of(*PLANS))
    systems: tuple[str, ...] = setting((), "only these, separated by semicolons", parse=split_names)
    pictures: str = setting("", f"instead of a plan, one part with these: {', '.join(SIZES)}")
    concurrency: tuple[int, ...] = setting((1, 8, 32), "of that part: at a time, with commas", parse=split_levels)
    seconds: float = setting(8.0, "of that part: for each measurement")
    rounds: int = setting(3, "of that part: times that each system is started and measured")


def main(argv: Sequence[str], environ: Mapping[str, str]) -> None:
    """Measure, print and write down."""
    settings = load_settings(ServeSettings, "python -m benchmarks.serve", "BENCH_", argv, environ)
    stop_at_signals()
    parts = _choose_parts(settings)
    trials: list[tuple[Part, Trial]] = []
    # What is not a whole plan must not take the place of one on the page.
    results = Results("serve-part" if settings.pictures or settings.systems else "serve")
    machine = describe_machine("torch", "openvino", "kserve", "uvicorn", "aiohttp", "grpcio")

    def keep() -> None:
        results.write({"machine": machine, "parts": [_describe(part, trial) for part, trial in trials]})

    try:
        for part in parts:
            trial = Trial(part, make_workload(pictures=part.pictures), keep)
            trials.append((part, trial))
            trial.run()
    finally:  # what was measured before Ctrl-C is worth having
        print(show_machine(machine))
        _show(trials)
        print(results.file)


def _show(trials: Sequence[tuple[Part, Trial]]) -> None:
    """The tables, and what was skipped."""
    print(show_parts({"parts": [_describe(part, trial) for part, trial in trials]}))
    for _, trial in trials:
        for name, reason in trial.skipped.items():
            print(f"skipped {name}: {reason}")


def _choose_parts(settings: ServeSettings) -> tuple[Part, ...]:
    check_names("--systems", settings.systems, (*BARE, *list_systems(Workload())))
    if settings.pictures and settings.pictures not in SIZES:
        raise SettingError(f"--pictures: use one of {', '.join(SIZES)}")
    if settings.pictures:
        return (Part(settings.pictures, settings.concurrency, settings.seconds, settings.rounds, settings.systems),)
    plan = PLANS[settings.plan]
    return tuple(replace(part, systems=settings.systems) for part in plan) if settings.systems else plan


def _describe(part: Part, trial: Trial) -> dict[str, Any]:
    about = {"pictures": part.pictures, "seconds": part.seconds, "means": trial.means}
    return {**about, "rounds": trial.rounds, "skipped": trial.skipped}


if __name__ == "__main__":
    run_program(main)
