"""What crosses the wire between the transformer and the predictor (numpy only)."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

CONTRACT_VERSION = 1
"""Raised when the tensors or parameters below change; a peer of the version before must still be understood."""

MODEL_NAME = "doggos"

PIXELS = "pixels"  # UINT8 [N, S, S, 3], resized and cropped, not normalised
PROBABILITIES = "probabilities"  # FP32 [N, C], columns in label order
EMBEDDING = "embedding"  # FP32 [N, D], not L2-normalised
CLASSES = "classes"  # BYTES [C], in label order

CLIP_PARAMETER = "clip"
CONTRACT_PARAMETER = "contract"
RESIZE_PARAMETER = "resize"
RESIZE_BICUBIC = "bicubic"

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class ClipMark:
    """Says which CLIP made an embedding, so that embeddings of two CLIPs are never compared."""

    fingerprint: str
    name: str
    dim: int
    exif_orientation: bool

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> "ClipMark":
        """Read a mark; raises ValueError with a sentence when it is not one."""
        try:
            fields = json.loads(text)
            mark = cls(**fields)
        except (ValueError, TypeError) as error:
            raise ValueError(f"the mark of the CLIP is not valid: {error}") from None
        types = {"fingerprint": str, "name": str, "dim": int, "exif_orientation": bool}
        for name, kind in types.items():
            if not isinstance(getattr(mark, name), kind):
                raise ValueError(f"the mark of the CLIP is not valid: {name} is not a {kind.__name__}")
        return mark


@dataclass(frozen=True)
class PredictorInfo:
    """What the predictor says of itself with every answer."""

    fingerprint: str
    contract: int
    resize: str

    def to_parameters(self) -> dict[str, str]:
        return {
            CLIP_PARAMETER: self.fingerprint,
            CONTRACT_PARAMETER: str(self.contract),
            RESIZE_PARAMETER: self.resize,
        }

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, Any]) -> "PredictorInfo":
        """Read the parameters of an answer; raises ValueError with a sentence when they are missing."""
        try:
            return cls(
                str(parameters[CLIP_PARAMETER]), int(parameters[CONTRACT_PARAMETER]), str(parameters[RESIZE_PARAMETER])
            )
        except (KeyError, ValueError):
            raise ValueError(
                "the predictor's answer lacks the parameters clip, contract and resize: is it a doggos predictor?"
            ) from None


@dataclass(frozen=True)
class Prediction:
    """One forward pass: a row for each picture."""

    embedding: Floats  # [N, D]
    probabilities: Floats | None  # [N, C]; None without a head
    classes: tuple[str, ...]  # C names in label order; empty without a head
    info: PredictorInfo


def fingerprint_clip(
    tensors: Iterable[tuple[str, NDArray[Any]]], size: int, mean: Iterable[float], std: Iterable[float]
) -> str:
    """First 16 hex digits of SHA-256 over the sorted tensors (name, shape, float32 bytes) and the preprocessor."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors, key=lambda item: item[0]):
        digest.update(f"{name} {list(tensor.shape)} ".encode())
        digest.update(np.ascontiguousarray(tensor, dtype="<f4").tobytes())
    digest.update(json.dumps([size, [float(x) for x in mean], [float(x) for x in std]]).encode())
    return digest.hexdigest()[:16]
