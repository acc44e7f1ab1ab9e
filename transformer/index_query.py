"""From a prediction to what is searched for in the index: the embedding, among the most probable classes."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from contract import Floats, Prediction
from transformer.answer import Query


class IndexQuery(NamedTuple):
    """One search of the index."""

    embedding: Floats  # [D]
    classes: list[str]
    n: int


def list_index_queries(prediction: Prediction, queries: Sequence[Query]) -> list[IndexQuery]:
    """One for each picture and its query."""
    assert prediction.probabilities is not None
    rows = zip(queries, prediction.embedding, prediction.probabilities, strict=True)
    return [
        IndexQuery(embedding, most_probable(probabilities, prediction.classes, query.k), query.n)
        for query, embedding, probabilities in rows
    ]


def most_probable(probabilities: Floats, classes: Sequence[str], k: int) -> list[str]:
    """The `k` most probable classes, ties in label order."""
    return [classes[label] for label in np.argsort(-probabilities, kind="stable")[:k]]
