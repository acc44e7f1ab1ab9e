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


class ThreadKeeping:
    """Knows which threads loaded it and computed with it."""

    size, dim, classes, info = 2, 1, (), PredictorInfo("0123456789abcdef", 1, "bicubic")

    def __init__(self) -> None:
        self.threads = [threading.current_thread()]

    def predict(self, pixels: Pixels) -> Prediction:
        self.threads.append(threading.current_thread())
        return Prediction(np.zeros((len(pixels), 1), np.float32), None, (), self.info)


def test_is_loaded_warmed_up_and_run_by_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenMP gives every thread that computes a team of its own: with two of them a forward took half as long again."""
    engines: list[ThreadKeeping] = []

    def load(_: PredictorSettings) -> Any:
        engines.append(ThreadKeeping())
        startup._warm_up(engines[0], (1, 2))
        return engines[0], {}

    monkeypatch.setattr(startup, "_load_warm", load)

    async def test() -> None:
        model = PredictorModel("doggos", 8)
        await startup.load_predictor(PredictorSettings(), model, PredictorMetrics())
        with model.slot.use() as loaded:
            await loaded.batcher.submit(np.zeros((1, 2, 2, 3), np.uint8), Deadline.after(60))

    asyncio.run(test())
    assert len(engines[0].threads) == 4
    assert set(engines[0].threads) == {engines[0].threads[0]} != {threading.main_thread()}


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


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [({}, "20000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "PASSIVE"}, "None")],
)
def test_openmp_is_told_how_long_to_spin_before_it_is_loaded(
    chosen: dict[str, str], expected: str, tmp_path: Path
) -> None:
    """It reads the variable once, when torch brings it in."""
    program = f"""
import os, sys
from predictor import startup
from predictor.settings import PredictorSettings

class Told:
    def find_spec(self, name, path=None, target=None):
        if name == "torch" and sys._getframe(1).f_code.co_name != "find_spec":
            print(os.environ.get("GOMP_SPINCOUNT"))

sys.meta_path.insert(0, Told())
try:
    startup._load_torch(PredictorSettings(model_dir={str(tmp_path)!r}, engine="torch"))
except Exception as error:
    assert "torch" in sys.modules, error
"""
    kept = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    found = subprocess.run(
        [sys.executable, "-c", program], env={**kept, **chosen}, capture_output=True, text=True, check=True
    )
    assert found.stdout.split()[-1] == expected
