"""How near each precision is to torch on pictures that it was not calibrated with, as users see it (numpy only)."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from contract import Floats, Pixels, Prediction
from embeddings import Embeddings, read_embeddings
from predictor.agreement import compare_embeddings, predict_all
from predictor.engine import Engine
from predictor.exported import HeldOut, Precision
from serving.errors import ArtefactError

K, N = 4, 5  # what a caller gets who asks for nothing else


@dataclass(frozen=True)
class Check:
    """A precision's figures, and the cosine of each picture [M] that they were made of."""

    found: HeldOut
    cosines: Floats


def check_held_out(
    engines: Mapping[Precision, Engine], reference: Engine, pixels: Pixels, index: Embeddings | None
) -> tuple[Check, ...]:
    """Answer `pixels` [M, S, S, 3] by every engine, and hold the answers against the reference's."""
    wanted = predict_all(reference, pixels)
    return tuple(_check(name, predict_all(engine, pixels), wanted, index) for name, engine in engines.items())


def _check(name: Precision, given: Prediction, wanted: Prediction, index: Embeddings | None) -> Check:
    cosines = compare_embeddings(given.embedding, wanted.embedding)
    median, low = (float(value) for value in np.percentile(cosines, (50, 5)))
    same_top = 1.0
    if given.probabilities is not None and wanted.probabilities is not None:
        same_top = float((given.probabilities.argmax(1) == wanted.probabilities.argmax(1)).mean())
    same_matches = compare_matches(index, given, wanted) if index else None
    return Check(HeldOut(name, len(cosines), median, low, same_top, same_matches), cosines)


def open_index(location: str, fingerprint: str) -> Embeddings:
    """The index that the matches are looked up in; raises ArtefactError when another CLIP made it."""
    index = read_embeddings(location)
    if index.mark and index.mark.fingerprint != fingerprint:
        raise ArtefactError(f"--index_dir: {location} was made by the CLIP {index.mark.name}, which is another one")
    return index


def compare_matches(index: Embeddings, given: Prediction, wanted: Prediction) -> float:
    """Share of the reference's matches that are found again, by each answer's own classes and embedding."""
    lengths = np.linalg.norm(index.matrix, axis=1)  # [rows]
    lengths[lengths == 0] = 1
    shares = []
    for row in range(len(wanted.embedding)):
        found, expected = (set(_find(index, lengths, answer, row)) for answer in (given, wanted))
        shares.append(len(found & expected) / max(1, len(expected)))
    return float(np.mean(shares))


def _find(index: Embeddings, lengths: Floats, answer: Prediction, row: int) -> list[int]:
    """Positions of the best rows among those of the most probable classes."""
    rows: NDArray[np.intp] = np.arange(len(index.matrix))
    if answer.probabilities is not None:
        best = {answer.classes[label] for label in np.argsort(-answer.probabilities[row], kind="stable")[:K]}
        rows = np.flatnonzero(np.isin(index.codes, [code for code, name in enumerate(index.labels) if name in best]))
    scores = index.matrix[rows] @ answer.embedding[row] / lengths[rows]
    positions: list[int] = rows[np.argsort(-scores, kind="stable")[:N]].tolist()
    return positions
