"""Whether a predictor and an index belong together."""

from collections.abc import Sequence

from contract import CONTRACT_VERSION, RESIZE_BICUBIC, ClipMark, Prediction, PredictorInfo
from serving.errors import NotReady
from transformer.search import Index


def find_unknown(classes: Sequence[str], index: Index) -> list[str]:
    """The index's classes that the head does not know."""
    return sorted(set(index.classes) - set(classes))


def find_mismatch(info: PredictorInfo) -> str:
    """Why pictures are not prepared as this predictor expects them; empty when they are."""
    if info.contract in (CONTRACT_VERSION, CONTRACT_VERSION - 1) and info.resize == RESIZE_BICUBIC:
        return ""
    return f"the predictor speaks contract {info.contract} with resize {info.resize!r}: update one of both"


def check_prediction(prediction: Prediction, index: Index) -> None:
    """Raise NotReady when this predictor and this index do not belong together."""
    info, mark = prediction.info, index.mark
    if mismatch := find_mismatch(info):
        raise NotReady(mismatch)
    if mark and mark.fingerprint != info.fingerprint:
        raise NotReady(f"the index was made with {_describe(mark)}, the predictor has the CLIP {info.fingerprint}")
    if prediction.embedding.shape[1] != index.dim:
        raise NotReady(
            f"the index has embeddings of {index.dim} numbers, the predictor's have {prediction.embedding.shape[1]}"
        )
    if prediction.probabilities is None or not prediction.classes:
        raise NotReady("the predictor has no head: it gives embeddings but no classes")


def _describe(mark: ClipMark) -> str:
    return f"the CLIP {mark.fingerprint} ({mark.name})"
