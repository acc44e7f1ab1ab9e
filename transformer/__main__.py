"""`python -m transformer`: load an index, wait for the predictor, then serve."""

import functools
import os
from collections.abc import Mapping, Sequence

from serving.kserve_flags import kserve_flags
from serving.program import run_server
from serving.settings import load_settings
from transformer.settings import PREFIX, TransformerSettings


def main(argv: Sequence[str], environ: Mapping[str, str]) -> None:
    """Read the settings, then serve until SIGTERM."""
    settings = load_settings(TransformerSettings, "python -m transformer", PREFIX, argv, environ, kserve_flags())
    from serving.lifecycle import run_process

    run_process(serve(settings))


async def serve(settings: TransformerSettings) -> None:
    """Put the pieces together and run them."""
    # Only now: the flags above must have hidden our command line from KServe first.
    from serving.held import ByteBudget
    from serving.lifecycle import Process
    from serving.logs import configure_logs
    from serving.metrics import TransformerMetrics
    from serving.repository import Repository
    from serving.rest import build_app
    from serving.tracing import open_tracer
    from transformer.decode_pool import DecodeMemory
    from transformer.openapi import describe_transformer
    from transformer.page import page_routes
    from transformer.routes import predict_routes
    from transformer.server import TransformerModel
    from transformer.startup import load_transformer

    configure_logs(settings.log_level)
    metrics, tracer = TransformerMetrics(), open_tracer("doggos-transformer", os.environ)
    model = TransformerModel(settings.model_name, settings.max_pictures)
    held, memory = ByteBudget(settings.max_held_bytes), DecodeMemory(settings.max_decode_bytes)
    routes = predict_routes(model, settings.max_body_bytes, settings.max_pictures, settings.url_template)
    routes.include_router(await page_routes(settings, model, memory))
    load = functools.partial(load_transformer, settings, model, metrics, held, memory)
    repository = Repository(model, load, settings.read_repository_token())
    document = describe_transformer(settings.model_name, settings.max_pictures, bool(settings.url_template))
    app = build_app(repository, metrics, settings, document, tracer, held, routes)
    await Process(repository, app, metrics, settings, tracer, held).run()


if __name__ == "__main__":
    run_server(main)
