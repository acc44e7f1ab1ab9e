"""The engine is loaded by the thread that will compute with it."""

import asyncio
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contract import Pixels, Prediction, PredictorInfo
from predictor import startup
from predictor.server import PredictorModel
from predictor.settings import PredictorSettings
from serving.deadline import Deadline
from serving.metrics import PredictorMetrics


class ThreadNaming:
    """Says which threads loaded it and computed with it."""

    size, dim, classes, info = 2, 1, (), PredictorInfo("0123456789abcdef", 1, "bicubic")

    def __init__(self) -> None:
        self.threads = [threading.current_thread().name]

    def predict(self, pixels: Pixels) -> Prediction:
        self.threads.append(threading.current_thread().name)
        return Prediction(np.zeros((len(pixels), 1), np.float32), None, (), self.info)


def test_is_loaded_warmed_up_and_run_by_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenMP gives every thread that computes a team of its own: with two of them a forward took half as long again."""
    engines: list[ThreadNaming] = []

    def load(_: PredictorSettings) -> Any:
        engines.append(ThreadNaming())
        startup._warm_up(engines[0], (1, 2))
        return engines[0], {}

    monkeypatch.setattr(startup, "_load_warm", load)

    async def test() -> None:
        model = PredictorModel("doggos", 8)
        await startup.load_predictor(PredictorSettings(), model, PredictorMetrics())
        with model.slot.use() as loaded:
            await loaded.batcher.submit(np.zeros((1, 2, 2, 3), np.uint8), Deadline.after(60))

    asyncio.run(test())
    assert engines[0].threads == ["engine_0"] * 4


def test_a_load_that_fails_leaves_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(_: PredictorSettings) -> Any:
        raise ValueError("damaged")

    monkeypatch.setattr(startup, "_load_warm", load)
    before = set(threading.enumerate())
    with pytest.raises(ValueError, match="damaged"):
        asyncio.run(startup.load_predictor(PredictorSettings(), PredictorModel("doggos", 8), PredictorMetrics()))
    for thread in set(threading.enumerate()) - before:
        thread.join(60)
        assert not thread.is_alive()


@pytest.mark.parametrize(("chosen", "expected"), [(None, "20000"), ("7", "7")])
def test_openmp_is_told_how_long_to_spin_before_it_is_loaded(chosen: str | None, expected: str, tmp_path: Path) -> None:
    program = f"""
import os, sys
from predictor import startup
from predictor.settings import PredictorSettings
assert "torch" not in sys.modules
try:
    startup._load_torch(PredictorSettings(model_dir={str(tmp_path)!r}, engine="torch"))
except Exception as error:
    print(type(error).__name__, "torch" in sys.modules, os.environ["GOMP_SPINCOUNT"])
"""
    environ = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    if chosen:
        environ["GOMP_SPINCOUNT"] = chosen
    found = subprocess.run([sys.executable, "-c", program], env=environ, capture_output=True, text=True, check=True)
    assert found.stdout.split()[-2:] == ["True", expected]
