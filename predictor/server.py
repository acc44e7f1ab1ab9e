"""The predictor as a KServe model: V2 requests to pixels, predictions to V2 answers."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

import contract
from contract import Pixels, Prediction
from predictor.batching import MicroBatcher
from predictor.engine import Engine
from serving.call import Call
from serving.errors import InvalidRequest, OutOfRange
from serving.model import V2Model, check_inputs, check_outputs, select_outputs
from serving.v2 import InferRequest, InferResponse, Tensor, TensorSpec


@dataclass(frozen=True)
class Loaded:
    """An engine, the queue in front of it, and its list of classes as a tensor, which goes with every answer."""

    engine: Engine
    batcher: MicroBatcher
    classes: Tensor


class PredictorModel(V2Model[Loaded]):
    """Serves one engine through a micro-batcher."""

    def __init__(self, name: str, max_pictures: int) -> None:
        super().__init__(name)
        self._max_pictures = max_pictures

    def take(self, engine: Engine, batcher: MicroBatcher) -> None:
        """Serve this engine from now on."""
        classes = Tensor.of_strings(contract.CLASSES, engine.classes, [len(engine.classes)])
        self.slot.put(Loaded(engine, batcher, classes), batcher.close)

    @property
    def input_specs(self) -> Sequence[TensorSpec]:
        with self.slot.use() as loaded:
            size = loaded.engine.size
        return [TensorSpec(contract.PIXELS, "UINT8", (-1, size, size, 3))]

    @property
    def output_specs(self) -> Sequence[TensorSpec]:
        with self.slot.use() as loaded:
            return _output_specs(loaded.engine)

    @property
    def max_values(self) -> int:
        """Room for as many pictures as a request takes, as numbers in JSON."""
        with self.slot.use() as loaded:
            return super().max_values + self._max_pictures * loaded.engine.size**2 * 3

    async def infer(self, request: InferRequest, call: Call) -> InferResponse:
        with self.slot.use() as loaded:
            check_outputs(request.outputs, _output_specs(loaded.engine))
            pixels = self._pixels(request, loaded.engine.size)
            prediction = await loaded.batcher.submit(pixels, call.deadline, call.record)
        outputs = select_outputs(request.outputs, _tensors(prediction, loaded.classes))
        return InferResponse(outputs, prediction.info.to_parameters())

    def _pixels(self, request: InferRequest, size: int) -> Pixels:
        check_inputs(request.inputs, [contract.PIXELS])
        tensor = request.inputs[contract.PIXELS]
        if tensor.datatype != "UINT8" or tensor.array.ndim != 4 or tensor.array.shape[1:] != (size, size, 3):
            raise InvalidRequest(
                f"input {contract.PIXELS!r} must be UINT8 [N,{size},{size},3], "
                f"not {tensor.datatype} {list(tensor.array.shape)}"
            )
        if not 1 <= len(tensor.array) <= self._max_pictures:
            raise OutOfRange(f"a request takes 1 to {self._max_pictures} pictures, not {len(tensor.array)}")
        return np.asarray(tensor.array, np.uint8)


def _output_specs(engine: Engine) -> list[TensorSpec]:
    embedding = TensorSpec(contract.EMBEDDING, "FP32", (-1, engine.dim))
    if not engine.classes:
        return [embedding]
    count = len(engine.classes)
    return [
        TensorSpec(contract.PROBABILITIES, "FP32", (-1, count)),
        embedding,
        TensorSpec(contract.CLASSES, "BYTES", (count,)),
    ]


def _tensors(prediction: Prediction, classes: Tensor) -> list[Tensor]:
    embedding = Tensor(contract.EMBEDDING, "FP32", prediction.embedding)
    if prediction.probabilities is None:
        return [embedding]
    return [Tensor(contract.PROBABILITIES, "FP32", prediction.probabilities), embedding, classes]
