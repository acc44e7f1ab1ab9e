"""`python -m benchmarks.start`: from the process's start to ready, its memory then, and to the first answer."""

import asyncio
import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import httpx
import numpy as np

from benchmarks.metering import Meter
from benchmarks.pixel_load import SIZE
from benchmarks.rounds import Results, describe_machine, show_machine, show_table, stop_at_signals
from benchmarks.starting import LOGS
from benchmarks.workload import PRECISIONS, SMALL, Workload, make_workload
from contract import MODEL_NAME
from launch import FREE_PORTS, Server, running, start_server
from serving.call import Call
from serving.deadline import Deadline
from serving.program import run_program
from serving.settings import at_least, load_settings, setting
from transformer.channel import open_channel
from transformer.target import REST

JPEG = {"content-type": "image/jpeg"}
COLUMNS = {"seconds": "s to ready", "core_seconds": "core-s", "megabytes": "MB", "answer_seconds": "s to an answer"}
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
                for key, value in _start(name, module, flags, workload).items():
                    found.setdefault(name, {}).setdefault(key, []).append(value)
                results.write({"machine": machine, "rounds": found})
    print(show_machine(machine))
    print(show_starts(found))
    print(results.file)


def show_starts(rounds: Mapping[str, Figures]) -> str:
    """The table of medians."""
    rows = [
        (name, *(f"{statistics.median(one[key]):.1f}" if key in one else "" for key in COLUMNS))
        for name, one in rounds.items()
    ]
    return show_table(("server", *COLUMNS.values()), rows)


def _programs(workload: Workload, standing: Server) -> dict[str, tuple[str, list[str]]]:
    index = ["--index_dir", str(workload.index), "--predictor_host", standing.http]
    exported = {precision: workload.exported(precision) for precision in PRECISIONS}
    models = {f"OpenVINO {precision}": folder for precision, folder in exported.items() if folder.exists()}
    predictors = {**models, "torch": workload.model}
    return {
        "transformer": ("transformer", index),
        **{f"predictor, {name}": ("predictor", ["--model_dir", str(folder)]) for name, folder in predictors.items()},
    }


def _start(name: str, module: str, flags: Sequence[str], workload: Workload) -> dict[str, float]:
    meter, begin = Meter(), time.perf_counter()
    try:
        server = start_server(module, [*FREE_PORTS, *flags], LOGS / f"start-{name}.log", meter.environ)
        ready = time.perf_counter() - begin
        figures = {"seconds": ready, "core_seconds": meter.cpu_seconds(), "megabytes": meter.megabytes()}
        begin = time.perf_counter() - ready  # without what metering took
        _ask(server, module, workload)
        return {**figures, "answer_seconds": time.perf_counter() - begin}
    finally:
        meter.stop()  # also a server that is not ready yet


def _ask(server: Server, module: str, workload: Workload) -> None:
    """A first picture, or what the transformer would make of one."""
    if module == "predictor":
        asyncio.run(_ask_predictor(server.http))
    else:
        picture = min(workload.pictures(SMALL).iterdir()).read_bytes()
        httpx.post(f"http://{server.http}/predict/", content=picture, headers=JPEG, timeout=60).raise_for_status()


async def _ask_predictor(address: str) -> None:
    channel = open_channel(address, REST, MODEL_NAME)
    try:
        await channel.predict(np.zeros((1, SIZE, SIZE, 3), np.uint8), Call(Deadline.after(60)))
    finally:
        await channel.close()


if __name__ == "__main__":
    run_program(main)
