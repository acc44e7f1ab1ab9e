"""`python -m predictor`: load a CLIP and its head, then serve them."""

import functools
import os
from collections.abc import Mapping, Sequence

from predictor.settings import PREFIX, PredictorSettings
from serving.kserve_flags import kserve_flags
from serving.program import run_server
from serving.settings import load_settings


def main(argv: Sequence[str], environ: Mapping[str, str]) -> None:
    """Read the settings, then serve until SIGTERM."""
    settings = load_settings(PredictorSettings, "python -m predictor", PREFIX, argv, environ, kserve_flags())
    from serving.lifecycle import run_process

    run_process(serve(settings))


async def serve(settings: PredictorSettings) -> None:
    """Put the pieces together and run them."""
    # Only now: the flags above must have hidden our command line from KServe first.
    from predictor.openapi import describe_predictor
    from predictor.server import PredictorModel
    from predictor.startup import load_predictor
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
    load = functools.partial(load_predictor, settings, model, metrics)
    repository = Repository(model, load, settings.read_repository_token())
    document = describe_predictor(settings.model_name, settings.max_pictures)
    held = ByteBudget(settings.max_held_bytes)
    app = build_app(repository, metrics, settings, document, tracer, held)
    await Process(repository, app, metrics, settings, tracer, held).run()


if __name__ == "__main__":
    run_server(main)
