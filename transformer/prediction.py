"""The predictor's answer as arrays of the agreed shapes, or a sentence that says why it is none."""

from collections.abc import Sequence

import numpy as np

import contract
from contract import Floats, Prediction, PredictorInfo
from serving.v2 import Array, InferResponse, Tensor


class PredictionReader:
    """Reads answers; class names that have not changed are not decoded again."""

    def __init__(self) -> None:
        self.known: dict[str, Tensor] = {}  # tensors that need not be decoded again when they come again
        self._classes: tuple[str, ...] = ()

    def read(self, response: InferResponse, rows: int) -> Prediction:
        """The answer to `rows` pictures; raises ValueError when it is not what a predictor answers."""
        info = PredictorInfo.from_parameters(response.parameters)
        tensors = {tensor.name: tensor for tensor in response.outputs}
        classes = self._read_classes(tensors.get(contract.CLASSES))
        embedding = _floats(tensors, contract.EMBEDDING, rows, None)
        probabilities = _floats(tensors, contract.PROBABILITIES, rows, len(classes)) if classes else None
        return Prediction(embedding, probabilities, classes, info)

    def _read_classes(self, tensor: Tensor | None) -> tuple[str, ...]:
        if tensor is None:
            return ()
        if tensor is not self.known.get(contract.CLASSES):
            self._classes, self.known = _names(tensor), {contract.CLASSES: tensor}
        return self._classes


def _names(tensor: Tensor) -> tuple[str, ...]:
    if tensor.datatype != "BYTES" or tensor.array.ndim != 1:
        raise ValueError(f"{tensor.name} must be BYTES [C]")
    names = tuple(name.decode() for name in tensor.array)
    if len(set(names)) != len(names):
        raise ValueError("two classes have the same name")
    return names


def _floats(tensors: dict[str, Tensor], name: str, rows: int, columns: int | None) -> Floats:
    tensor = tensors.get(name)
    if tensor is None:
        raise ValueError(f"it has no {name}")
    array: Array = tensor.array
    if tensor.datatype != "FP32" or array.ndim != 2 or len(array) != rows or not _fits(array.shape, columns):
        wanted: Sequence[int | str] = [rows, "D" if columns is None else columns]
        raise ValueError(f"{name} must be FP32 {wanted}, not {tensor.datatype} {list(array.shape)}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} has values that are not finite")
    return array


def _fits(shape: tuple[int, ...], columns: int | None) -> bool:
    return shape[1] > 0 if columns is None else shape[1] == columns
