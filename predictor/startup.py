"""From settings to a warm engine behind its queue."""

import asyncio
import os
import tempfile
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from predictor.batching import MicroBatcher
from predictor.engine import Engine
from predictor.memory import release_pages, return_freed
from predictor.server import PredictorModel
from predictor.settings import PredictorSettings
from serving.errors import SettingError
from serving.logs import log
from serving.metrics import PredictorMetrics


async def load_predictor(settings: PredictorSettings, model: PredictorModel, metrics: PredictorMetrics) -> None:
    """Load and warm up off the event loop, then let `model` serve."""
    # In the thread that will compute: OpenMP gives each thread that computes a team of its own, and once all teams
    # together have more threads than there are cores, they sleep at each of torch's hundreds of barriers.
    thread = ThreadPoolExecutor(1, "engine")
    try:
        engine, origin = await asyncio.get_running_loop().run_in_executor(thread, _load_warm, settings)
        model.take(engine, MicroBatcher(engine.predict, settings.max_batch, settings.max_queue, metrics, thread))
    except BaseException:
        thread.shutdown(wait=False)
        raise
    metrics.model.info({"clip": engine.info.fingerprint, **origin})
    log("model loaded", clip=engine.info.fingerprint, classes=len(engine.classes), size=engine.size, dim=engine.dim)


def _load_warm(settings: PredictorSettings) -> tuple[Engine, Mapping[str, str]]:
    """The engine, and where it came from."""
    engine, origin = _load_openvino(settings) if settings.choose_engine() == "openvino" else _load_torch(settings)
    log("engine", **origin)
    return_freed()
    return engine, origin


def _warm_up(engine: Engine, sizes: Iterable[int]) -> None:
    for batch in sizes:
        engine.predict(np.full((batch, engine.size, engine.size, 3), 128, np.uint8))


def _load_openvino(settings: PredictorSettings) -> tuple[Engine, Mapping[str, str]]:
    from predictor.openvino import load_engine  # each environment has its own engine's libraries only

    folder = Path(settings.model_dir)
    engine = load_engine(folder, settings.cpu_threads)
    _warm_up(engine, engine.list_warm_ups(settings.max_batch))
    release_pages(folder / engine.weights)  # it computes with its own copies of nearly all
    return engine, {"engine": "openvino", "precision": engine.precision, "device": "cpu", "head": engine.head}


def limit_spinning() -> None:
    """Have OpenMP's threads look for work for 1 ms or so before they sleep; to be called before torch is imported.

    By default it is some 15, which are taken from the transformer beside it, whose turn is between the forwards.
    """
    if "OMP_WAIT_POLICY" not in os.environ:  # which it would outrank
        os.environ.setdefault("GOMP_SPINCOUNT", "20000")


def _load_torch(settings: PredictorSettings) -> tuple[Engine, Mapping[str, str]]:
    if find_spec("torch") is None:
        raise SettingError(
            "--engine torch: this environment has no torch; write a folder for the openvino engine "
            "with python -m predictor.export and name it with --model_dir"
        )
    limit_spinning()
    # Where torch.compile keeps its kernels, so that the next start need not make them again.
    kept = settings.cache or Path(tempfile.gettempdir(), f"doggos-{os.getuid()}")
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(kept / "torchinductor"))
    from predictor.source import open_source

    with open_source(settings, settings.cpu_threads, settings.computing) as source:
        engine = source.engine
    _warm_up(engine, engine.warm_ups)
    said = {"device": str(engine.device), "precision": engine.precision, "compiled": "on" if engine.compiled else "off"}
    return engine, {"engine": "torch", **said, "head": source.reference}
