"""From settings to a pipeline whose predictor has answered once."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import TypeVar

import numpy as np

from contract import Prediction
from serving.call import Call
from serving.deadline import Deadline
from serving.errors import ArtefactError, ServiceError
from serving.held import ByteBudget
from serving.logs import log, warn
from serving.metrics import TransformerMetrics
from serving.model import State
from transformer.channel import PredictorChannel, open_channel
from transformer.compatibility import find_unknown
from transformer.decode_pool import DecodeMemory, DecodePool
from transformer.download import Downloader, FetchLimits
from transformer.limits import PictureLimits
from transformer.pipeline import Pipeline
from transformer.search import Index, load_index
from transformer.server import TransformerModel
from transformer.settings import TransformerSettings

RETRY_SECONDS = 0.5
ATTEMPT_SECONDS = 10.0

Result = TypeVar("Result")


async def load_transformer(
    settings: TransformerSettings, model: TransformerModel, metrics: TransformerMetrics, held: ByteBudget,
    memory: DecodeMemory,
) -> None:  # fmt: skip
    """Load the index off the event loop, wait for the predictor, then let `model` serve."""
    index = await asyncio.to_thread(
        load_index, settings.index_dir, allow_unmarked=settings.allow_unmarked, dtype=settings.index_dtype
    )
    start = Deadline.after(settings.start_timeout) if model.state is State.LOADING else None
    async with AsyncExitStack() as opened:  # closed here only when the load fails
        channel, downloader = _open_channel(settings), _open_downloader(settings, metrics, held)
        opened.push_async_callback(channel.close)
        opened.push_async_callback(downloader.close)
        size = await wait_for(channel.read_size, start)
        pool = DecodePool("decode", settings.cpu_threads, settings.max_decodes, memory)
        limits = PictureLimits(settings.max_picture_bytes, settings.max_picture_pixels)
        pipeline = Pipeline(index, channel, downloader.fetch, pool, size, limits, metrics)
        opened.callback(pipeline.close)
        grey = np.full((1, size, size, 3), 128, np.uint8)
        prediction = await wait_for(lambda call: pipeline.predict(grey, call), start)
        check_classes(prediction, index)
        model.take(pipeline, len(prediction.classes), opened.pop_all().aclose)
        _show(index, pool, metrics)
    log("index loaded", rows=index.rows, dim=index.dim, classes=len(index.classes), size=size)


def _show(index: Index, pool: DecodePool, metrics: TransformerMetrics) -> None:
    """What is served from now on, and how much of it may wait."""
    metrics.decode_depth.set_function(lambda: pool.waiting)
    metrics.decode_limit.set(pool.max_waiting)
    metrics.index.info({"clip": index.mark.fingerprint, "name": index.mark.name} if index.mark else {"clip": ""})
    metrics.index_rows.set(index.rows)


def _open_channel(settings: TransformerSettings) -> PredictorChannel:
    name = settings.predictor_model_name or settings.model_name
    return open_channel(settings.predictor_host, settings.predictor_protocol, name)


def _open_downloader(settings: TransformerSettings, metrics: TransformerMetrics, held: ByteBudget) -> Downloader:
    limits = FetchLimits(max_bytes=settings.max_picture_bytes, total_timeout=settings.fetch_timeout)
    metrics.fetch_limit.set(limits.connections)
    return Downloader(
        limits,
        allow_networks=settings.allow_networks,
        allow_hosts=settings.allow_hosts,
        proxy=settings.egress_proxy or None,
        ca_file=settings.ca_file or None,
        held=held,
    )


async def wait_for(ask: Callable[[Call], Awaitable[Result]], start: Deadline | None) -> Result:
    """Ask until there is an answer, logging each new reason; raises ArtefactError when the start takes too long.

    Without `start` the process serves already: asked once, as what does not fit will not fit later.
    """
    said = ""
    while True:
        remaining = start.remaining() if start else ATTEMPT_SECONDS
        try:
            return await ask(Call(Deadline.after(min(ATTEMPT_SECONDS, max(remaining, RETRY_SECONDS)))))
        except ServiceError as error:
            reason = error.sentence
        if start is None:
            raise ArtefactError(f"the predictor is not usable: {reason}")
        if reason != said:
            warn("waiting for the predictor", reason=reason)
            said = reason
        if start.remaining() <= RETRY_SECONDS:
            raise ArtefactError(f"the predictor was not usable within --start_timeout: {said}")
        await asyncio.sleep(RETRY_SECONDS)


def check_classes(prediction: Prediction, index: Index) -> None:
    """Refuse an index with classes that the head does not know; a class without pictures is only logged."""
    if unknown := find_unknown(prediction.classes, index):
        raise ArtefactError(f"the index has {len(unknown)} classes that the head does not know, such as {unknown[0]!r}")
    empty = sorted(set(prediction.classes) - set(index.classes))
    if empty:
        warn("some classes have no pictures in the index", count=len(empty), example=empty[0])
