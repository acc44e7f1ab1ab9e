"""The transformer as a KServe model: V2 requests to pictures, answers to V2 tensors."""

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from serving.call import Call
from serving.errors import InvalidRequest, OutOfRange, ServiceError
from serving.model import V2Model, check_inputs, check_outputs, select_outputs
from serving.slot import Closer
from serving.v2 import InferRequest, InferResponse, Parameter, Tensor, TensorSpec
from transformer.answer import Answer, Picture, Query
from transformer.pipeline import Pipeline

MAX_MATCHES = 100
PREDICT_PATHS = ("/predict/", "/predict")
OUTPUTS = (
    "classes", "probabilities", "embedding", "match_class", "match_path", "match_similarity", "match_count", "error",
)  # fmt: skip


@dataclass(frozen=True)
class Loaded:
    """A pipeline, and the number of the head's classes for the metadata."""

    pipeline: Pipeline
    classes: int


class TransformerModel(V2Model[Loaded]):
    """Serves one pipeline."""

    def __init__(self, name: str, max_pictures: int) -> None:
        super().__init__(name)
        self._max_pictures = max_pictures

    def take(self, pipeline: Pipeline, classes: int, close: Closer) -> None:
        """Serve this pipeline from now on, and `close` what it works with when another one has taken its place."""
        self.slot.put(Loaded(pipeline, classes), close)

    @property
    def inference_paths(self) -> frozenset[str]:
        return super().inference_paths.union(PREDICT_PATHS, {f"/v1/models/{self.name}:predict"})

    def check_room(self) -> None:
        with self.slot.use() as loaded:
            loaded.pipeline.check_room()

    async def answer(self, queries: Sequence[Query], call: Call, *, partial: bool = False) -> Answer:
        """The answer of the pipeline that is served as the request comes."""
        with self.slot.use() as loaded:
            return await loaded.pipeline.answer(queries, call, partial=partial)

    @property
    def input_specs(self) -> Sequence[TensorSpec]:
        return [TensorSpec("url", "BYTES", (-1,)), TensorSpec("image", "BYTES", (-1,))]

    @property
    def output_specs(self) -> Sequence[TensorSpec]:
        with self.slot.use() as loaded:
            classes, dim = loaded.classes, loaded.pipeline.index.dim
        return [
            TensorSpec("classes", "BYTES", (classes,)),
            TensorSpec("probabilities", "FP32", (-1, classes)),
            TensorSpec("embedding", "FP32", (-1, dim)),
            TensorSpec("match_class", "BYTES", (-1, -1)),
            TensorSpec("match_path", "BYTES", (-1, -1)),
            TensorSpec("match_similarity", "FP32", (-1, -1)),
            TensorSpec("match_count", "INT32", (-1,)),
            TensorSpec("error", "BYTES", (-1,)),
        ]

    async def infer(self, request: InferRequest, call: Call) -> InferResponse:
        check_outputs(request.outputs, self.output_specs)
        partial = _read_partial(request)
        k, n = read_k_n(request.parameters)
        queries = [Query(picture, k, n) for picture in self._pictures(request)]
        answer = await self.answer(queries, call, partial=partial)
        return InferResponse(select_outputs(request.outputs, _tensors(answer, n, partial)))

    def _pictures(self, request: InferRequest) -> list[Picture]:
        check_inputs(request.inputs, ["url", "image"])
        (tensor,) = request.inputs.values()
        if tensor.datatype != "BYTES" or tensor.array.ndim != 1:
            raise InvalidRequest(
                f"input {tensor.name!r} must be BYTES [N], not {tensor.datatype} {list(tensor.array.shape)}"
            )
        if not 1 <= len(tensor.array) <= self._max_pictures:
            raise OutOfRange(f"a request takes 1 to {self._max_pictures} pictures, not {len(tensor.array)}")
        read = _read_url if tensor.name == "url" else _read_base64 if tensor.is_text else bytes
        return [read(value) for value in tensor.array]


def _read_url(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise InvalidRequest("input 'url' is not UTF-8") from None


def _read_base64(value: bytes) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except binascii.Error:
        raise InvalidRequest("input 'image' in JSON must be base64") from None


def _read_partial(request: InferRequest) -> bool:
    partial = request.parameters.get("partial", False)
    if not isinstance(partial, bool):
        raise InvalidRequest("partial must be true or false")
    if "error" in (request.outputs or ()) and not partial:
        raise InvalidRequest("the output 'error' needs the parameter partial: true")
    return partial


def read_k_n(fields: Mapping[str, Any]) -> tuple[int, int]:
    """k and n; raises InvalidRequest for a wrong type and OutOfRange for a wrong value."""
    k, n = _whole("k", fields, Query.k), _whole("n", fields, Query.n)
    if k < 1:
        raise OutOfRange("k, the number of classes to search in, must be 1 or more")
    if not 1 <= n <= MAX_MATCHES:
        raise OutOfRange(f"n, the number of similar pictures, must be 1 to {MAX_MATCHES}")
    return k, n


def _whole(name: str, parameters: Mapping[str, Parameter], default: int) -> int:
    value = parameters.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidRequest(f"{name} must be a whole number")
    return value


def _tensors(answer: Answer, n: int, partial: bool) -> list[Tensor]:
    rows = len(answer.matches)
    shape = (rows, n)
    padded = [[*matches, *[None] * (n - len(matches))] for matches in answer.matches]
    cells = [match for row in padded for match in row]
    similarity = np.array([match.similarity if match else 0.0 for match in cells], np.float32).reshape(shape)
    counts = np.array([len(matches) for matches in answer.matches], np.int32)
    tensors = [
        Tensor.of_strings("classes", answer.classes, [len(answer.classes)]),
        Tensor("probabilities", "FP32", answer.probabilities),
        Tensor("embedding", "FP32", answer.embedding),
        Tensor.of_strings("match_class", [match.label if match else "" for match in cells], shape),
        Tensor.of_strings("match_path", [match.path if match else "" for match in cells], shape),
        Tensor("match_similarity", "FP32", similarity),
        Tensor("match_count", "INT32", counts),
    ]
    if partial:
        tensors.append(Tensor.of_strings("error", [_describe(error) for error in answer.errors], [rows]))
    return tensors


def _describe(error: ServiceError | None) -> str:
    return f"{error.status} {error.sentence}" if error else ""
