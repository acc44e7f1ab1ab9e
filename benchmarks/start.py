"""`python -m benchmarks.start`: from the process's start to ready, and its memory then."""

import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from benchmarks.metering import Meter
from benchmarks.rounds import Results, describe_machine, show_machine, show_table, stop_at_signals
from benchmarks.systems import LOGS
from benchmarks.workload import PRECISIONS, Workload, make_workload
from launch import FREE_PORTS, Server, running, start_server
from serving.program import run_program
from serving.settings import at_least, load_settings, setting

Figures = dict[str, list[float]]


@dataclass(frozen=True)
class StartSettings:
    """Start each server several times, with its files in the page cache."""

    rounds: int = setting(3, "starts of each", parse=at_least(1))


def main(argv: Sequence[str], environ: Mapping[str, str]) -> None:
    """Start everything in turn, print and write the figures."""
    settings = load_settings(StartSettings, "python -m benchmarks.start", "BENCH_", argv, environ)
    stop_at_signals()
    workload = make_workload()
    LOGS.mkdir(parents=True, exist_ok=True)
    machine = describe_machine("kserve", "torch", "openvino", "pyarrow")
    results, found = Results("start"), dict[str, Figures]()
    with ExitStack() as stack:
        flags = [*FREE_PORTS, "--model_dir", str(workload.exported("fp32"))]
        standing = stack.enter_context(running("benchmarks.instant_predictor", flags, LOGS / "standing.log"))
        for _ in range(settings.rounds):
            for name, (module, flags) in _programs(workload, standing).items():
                figures = found.setdefault(name, {"seconds": [], "core_seconds": [], "megabytes": []})
                for key, value in _start(name, module, flags).items():
                    figures[key].append(value)
                results.write({"machine": machine, "rounds": found})
    print(show_machine(machine))
    print(show_starts(found))
    print(results.file)


def show_starts(rounds: Mapping[str, Figures]) -> str:
    """The table of medians."""
    rows = [(name, *(f"{statistics.median(values):.1f}" for values in one.values())) for name, one in rounds.items()]
    return show_table(("server", "s to ready", "core-s", "MB"), rows)


def _programs(workload: Workload, standing: Server) -> dict[str, tuple[str, list[str]]]:
    index = ["--index_dir", str(workload.index), "--predictor_host", standing.http]
    exported = {precision: workload.exported(precision) for precision in PRECISIONS}
    models = {f"OpenVINO {precision}": folder for precision, folder in exported.items() if folder.exists()}
    predictors = {**models, "torch": workload.model}
    return {
        "transformer": ("transformer", index),
        **{f"predictor, {name}": ("predictor", ["--model_dir", str(folder)]) for name, folder in predictors.items()},
    }


def _start(name: str, module: str, flags: Sequence[str]) -> dict[str, float]:
    meter, begin = Meter(), time.perf_counter()
    try:
        start_server(module, [*FREE_PORTS, *flags], LOGS / f"start-{name}.log", meter.environ)
        seconds = time.perf_counter() - begin
        return {"seconds": seconds, "core_seconds": meter.cpu_seconds(), "megabytes": meter.megabytes()}
    finally:
        meter.stop()  # also a server that is not ready yet


if __name__ == "__main__":
    run_program(main)
