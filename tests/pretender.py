"""`python -m tests.pretender`: the predictor's server around an engine that only pretends to compute."""

import asyncio
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from contract import Pixels, Prediction, PredictorInfo
from predictor.settings import PREFIX, PredictorSettings
from serving.program import run_server
from serving.settings import load_settings, setting
from tests.stand_ins import CLASSES, INFO, MARK, SIZE, classify


@dataclass(frozen=True)
class PretenderSettings(PredictorSettings):
    """The predictor's server, queue and metrics around an engine that only waits."""

    load_seconds: float = setting(0.0, "seconds that loading takes")
    load_error: str = setting("", "what loading fails with")
    forward_seconds: float = setting(0.0, "seconds that one forward takes")
    hold: str = setting("", "file; no forward ends while it is there")
    fail_on_black: bool = setting(False, "have the engine fail on a batch with a black picture in it")


@dataclass
class Pretender:
    """An engine; see `predictor.engine.Engine`."""

    settings: PretenderSettings
    size: int = SIZE
    dim: int = MARK.dim
    classes: tuple[str, ...] = CLASSES
    info: PredictorInfo = INFO

    def predict(self, pixels: Pixels) -> Prediction:
        time.sleep(self.settings.forward_seconds)
        while self.settings.hold and Path(self.settings.hold).exists():
            time.sleep(0.01)
        if self.settings.fail_on_black and not pixels.reshape(len(pixels), -1).any(axis=1).all():
            raise RuntimeError("the engine does not like black")
        return classify(pixels)


def main(argv: Sequence[str], environ: Mapping[str, str]) -> None:
    """Serve the pretender until SIGTERM."""
    settings = load_settings(PretenderSettings, "python -m tests.pretender", PREFIX, argv, environ)
    from serving.lifecycle import run_process

    run_process(_serve(settings))


async def _serve(settings: PretenderSettings) -> None:
    from predictor.batching import MicroBatcher
    from predictor.openapi import describe_predictor
    from predictor.server import PredictorModel
    from serving.held import ByteBudget
    from serving.lifecycle import Process
    from serving.logs import configure_logs
    from serving.metrics import PredictorMetrics
    from serving.repository import Repository
    from serving.rest import build_app
    from serving.tracing import open_tracer

    configure_logs(settings.log_level)
    metrics, tracer = PredictorMetrics(), open_tracer("doggos-predictor", os.environ)
    model = PredictorModel(settings.model_name, settings.max_pictures)

    async def load() -> None:
        await asyncio.to_thread(time.sleep, settings.load_seconds)
        if settings.load_error:
            raise RuntimeError(settings.load_error)
        engine = Pretender(settings)
        model.take(engine, MicroBatcher(engine.predict, settings.max_batch, settings.max_queue, metrics))

    repository = Repository(model, load, settings.read_repository_token())
    document = describe_predictor(settings.model_name, settings.max_pictures)
    held = ByteBudget(settings.max_held_bytes)
    app = build_app(repository, metrics, settings, document, tracer, held)
    await Process(repository, app, metrics, settings, tracer, held).run()


if __name__ == "__main__":
    run_server(main)
