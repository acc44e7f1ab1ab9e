"""What both ways to the predictor have in common: one attempt at a call, and what came of it."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from serving.call import Call
from serving.errors import DeadlineExceeded, NotReady, QueueFull, ServiceError, TooLarge
from serving.v2 import InferRequest, InferResponse, Tensor, TensorSpec

CONNECT_SECONDS = 2.0


class Hop(Protocol):
    """Raises Lost for an attempt that may be repeated, other ServiceErrors for one that may not."""

    async def describe(self, call: Call) -> Sequence[TensorSpec]:
        """The inputs of the model's metadata; raises InvalidRequest for what are none."""

    async def infer(self, request: InferRequest, known: Mapping[str, Tensor], call: Call) -> InferResponse:
        """The answer, in which a tensor that is the `known` one of its name is that object.

        Raises InvalidRequest for what is no answer."""

    async def close(self) -> None:
        """Close the connections; a call that is under way may end as lost."""


class Lost(Exception):
    """An attempt that was not answered; another may be, by this predictor or the next."""

    def __init__(self, error: ServiceError) -> None:
        super().__init__(error.sentence)
        self.error = error


def too_slow() -> DeadlineExceeded:
    """The deadline has passed, here or there."""
    return DeadlineExceeded("the predictor was too slow for the request's time")


def queue_full() -> QueueFull:
    """The predictor refused more work."""
    return QueueFull("the predictor's queue is full")


def too_large() -> TooLarge:
    """The message has more bytes than the predictor takes."""
    return TooLarge("the pictures of this request are too many for one message to the predictor: send fewer at once")


def not_ready(answered: bool) -> NotReady:
    """Nobody `answered`, or it said that it is not ready."""
    return NotReady("the predictor is not ready" if answered else "the predictor cannot be reached")


def refuses_pixels(details: str) -> NotReady:
    """What it was sent is not what it takes."""
    return NotReady(f"the predictor refuses the pixels: {details[:200]}")


def unknown_model(details: str) -> NotReady:
    """It serves another model."""
    return NotReady(f"the predictor does not know the model: {details[:200]}")


def failed(how: str) -> NotReady:
    """Anything else."""
    return NotReady(f"the predictor failed with {how}")
