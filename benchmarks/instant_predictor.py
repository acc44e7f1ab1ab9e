"""`python -m benchmarks.instant_predictor`: the predictor's server and queue around an engine that answers at once.

What a request costs then is what it costs outside of the model.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from contract import CONTRACT_VERSION, Pixels, Prediction, PredictorInfo
from predictor.exported import read_exported
from predictor.settings import PREFIX, PredictorSettings
from serving.kserve_flags import kserve_flags
from serving.program import run_server
from serving.settings import load_settings


class InstantEngine:
    """Gives every picture the same answer, of the shapes of an exported model; see `predictor.engine.Engine`."""

    def __init__(self, model_dir: Path) -> None:
        exported = read_exported(model_dir)
        self.size, self.dim, self.classes = exported.size, exported.dim, exported.classes
        self.info = PredictorInfo(exported.mark.fingerprint, CONTRACT_VERSION, exported.resize)
        self._embedding = np.random.default_rng(0).normal(size=self.dim).astype(np.float32)
        self._probabilities = np.random.default_rng(1).dirichlet(np.ones(len(self.classes))).astype(np.float32)

    def predict(self, pixels: Pixels) -> Prediction:
        rows = len(pixels)
        embedding, probabilities = np.tile(self._embedding, (rows, 1)), np.tile(self._probabilities, (rows, 1))
        return Prediction(embedding, probabilities, self.classes, self.info)


def main(argv: Sequence[str], environ: Mapping[str, str]) -> None:
    """Serve it until SIGTERM."""
    settings = load_settings(
        PredictorSettings, "python -m benchmarks.instant_predictor", PREFIX, argv, environ, kserve_flags()
    )
    from serving.lifecycle import run_process

    run_process(serve(settings))


async def serve(settings: PredictorSettings) -> None:
    """As `predictor.__main__` does."""
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
    metrics, tracer = PredictorMetrics(), open_tracer("doggos-predictor", {})
    model = PredictorModel(settings.model_name, settings.max_pictures)

    async def load() -> None:
        engine = InstantEngine(Path(settings.model_dir))
        model.take(engine, MicroBatcher(engine.predict, settings.max_batch, settings.max_queue, metrics))

    repository = Repository(model, load, settings.read_repository_token())
    document = describe_predictor(settings.model_name, settings.max_pictures)
    held = ByteBudget(settings.max_held_bytes)
    app = build_app(repository, metrics, settings, document, tracer, held)
    await Process(repository, app, metrics, settings, tracer, held).run()


if __name__ == "__main__":
    run_server(main)
