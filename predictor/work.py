"""The pictures of one request in the queue, and how each gets its part of what a batch gave."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from contract import Floats, Pixels, Prediction
from serving.deadline import Deadline

Record = Callable[[str, float, float], None]  # a stage, its begin and its end by time.monotonic()


@dataclass(eq=False)
class Work:
    """The pictures of one request, waiting."""

    pixels: Pixels  # [n, S, S, 3]
    deadline: Deadline
    answer: "asyncio.Future[Prediction]"
    arrived: float = field(default_factory=time.monotonic)
    begun: float | None = None  # its forward
    taken: bool = False


def record_stages(work: Work, record: Record) -> None:
    """How long it waited, and how long its forward took."""
    now = time.monotonic()
    record("queue", work.arrived, now if work.begun is None else work.begun)
    if work.begun is not None:
        record("forward", work.begun, now)


def fail(batch: Sequence[Work], error: Exception) -> None:
    """Give all of them the error."""
    for work in batch:
        if not work.answer.done():
            work.answer.set_exception(error)


def deliver(batch: Sequence[Work], prediction: Prediction) -> None:
    """Give each its rows."""
    start = 0
    for work in batch:
        end = start + len(work.pixels)
        if not work.answer.done():
            work.answer.set_result(_rows(prediction, start, end))
        start = end


def _rows(prediction: Prediction, start: int, end: int) -> Prediction:
    probabilities = prediction.probabilities
    return Prediction(
        prediction.embedding[start:end],
        None if probabilities is None else probabilities[start:end],
        prediction.classes,
        prediction.info,
    )


def join(parts: Sequence[Prediction]) -> Prediction:
    """The predictions of a batch's parts as one."""
    probabilities: list[Floats] = [part.probabilities for part in parts if part.probabilities is not None]
    return Prediction(
        np.concatenate([part.embedding for part in parts]),
        np.concatenate(probabilities) if probabilities else None,
        parts[0].classes,
        parts[0].info,
    )
