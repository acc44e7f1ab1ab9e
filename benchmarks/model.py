"""`python -m benchmarks.model`: engine and precision by batch, without decode or server."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.rounds import describe_machine, median_of, show_machine, show_table, time_rounds, write_results
from benchmarks.workload import make_workload
from local import load_engine
from predictor.agreement import compare, draw_noise, predict_all
from predictor.engine import Engine
from predictor.exported import REDUCED
from predictor.settings import PredictorSettings
from serving.program import run_program
from serving.settings import at_least, load_settings, setting

BATCHES = (1, 4, 8, 16)


@dataclass(frozen=True)
class ModelBenchmarkSettings:
    """Time a ViT-B/32 of random weights in every engine and precision of this processor.

    Agreement is measured on drawn pictures; int8 is calibrated with 24 others and judged by neither.
    """

    rounds: int = setting(5, "rounds, in each of which every engine takes its turn", parse=at_least(1))


def main(argv: Sequence[str], environ: Mapping[str, str]) -> None:
    """Load the engines, time them, print and write the figures."""
    settings = load_settings(ModelBenchmarkSettings, "python -m benchmarks.model", "BENCH_", argv, environ)
    workload = make_workload(("fp32", *REDUCED))
    folders = {name: workload.exported(name) for name in ("fp32", *REDUCED)}
    for name in [name for name, folder in folders.items() if not folder.exists()]:
        print(f"{name} is left out: this processor does not offer it, or nncf is missing (requirements/export.txt)")
        del folders[name]
    engines = {"torch fp32": _load(workload.model, "torch")}
    engines |= {f"OpenVINO {name}": _load(folder, "openvino") for name, folder in folders.items()}
    pixels = draw_noise(224)
    reference = predict_all(engines["torch fp32"], pixels)
    agreements = {name: compare(predict_all(engine, pixels), reference) for name, engine in engines.items()}
    seconds = {
        batch: time_rounds(
            {name: functools.partial(engine.predict, pixels[:batch]) for name, engine in engines.items()},
            settings.rounds,
            f"batch {batch}",
        )
        for batch in BATCHES
    }
    machine = describe_machine("torch", "openvino")
    rows = [
        (
            name,
            *(f"{batch / median_of(seconds[batch][name]):.1f}" for batch in BATCHES),
            f"{agreements[name].cosine_median:.5f}",
            f"{agreements[name].same_top:.0%}",
        )
        for name in engines
    ]
    print(show_machine(machine))
    print(show_table(("engine", *(f"pictures/s at {b}" for b in BATCHES), "cosine", "same best"), rows))
    print(write_results("model", {"machine": machine, "seconds": seconds}))


def _load(folder: Path, engine: str) -> Engine:
    return load_engine(PredictorSettings(model_dir=str(folder), engine=engine, device="cpu"))


if __name__ == "__main__":
    run_program(main)
