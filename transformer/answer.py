"""What is asked of the service and what it answers, whatever the protocol."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from contract import Floats, Prediction
from serving.errors import ServiceError
from transformer.search import Match

Picture = str | bytes  # a URL, or the encoded picture itself


@dataclass(frozen=True)
class Query:
    """One picture, and the `n` most similar pictures wanted among its `k` most probable classes."""

    picture: Picture
    k: int = 4
    n: int = 5


@dataclass(frozen=True)
class Answer:
    """A row for each picture; a failed one has zeros, no matches and its error."""

    classes: tuple[str, ...]  # C names in label order
    probabilities: Floats  # [N, C]
    embedding: Floats  # [N, D]
    matches: Sequence[Sequence[Match]]
    errors: Sequence[ServiceError | None]


def place_rows(
    prediction: Prediction, matches: Sequence[Sequence[Match]], errors: Sequence[ServiceError | None]
) -> Answer:
    """The rows of the pictures that could be read, among those that could not."""
    assert prediction.probabilities is not None
    if not any(errors):
        return Answer(prediction.classes, prediction.probabilities, prediction.embedding, matches, errors)
    good = [position for position, error in enumerate(errors) if error is None]
    probabilities = np.zeros((len(errors), prediction.probabilities.shape[1]), np.float32)
    embedding = np.zeros((len(errors), prediction.embedding.shape[1]), np.float32)
    probabilities[good], embedding[good] = prediction.probabilities, prediction.embedding
    placed: list[Sequence[Match]] = [()] * len(errors)
    for position, row in zip(good, matches, strict=True):
        placed[position] = row
    return Answer(prediction.classes, probabilities, embedding, placed, errors)
