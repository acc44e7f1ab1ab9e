"""V2 over REST as a caller sees it: a request with binary tensors, and what is answered to it."""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from serving.errors import InvalidRequest, TooLarge
from serving.rest_codec import read_json_size
from serving.v2 import (
    MAX_DIMENSIONS,
    InferRequest,
    InferResponse,
    Tensor,
    TensorSpec,
    check_shape,
    tensor_from_raw,
)

MAX_NAME = 200


def encode_request(request: InferRequest) -> tuple[bytes, int]:
    """The body, whose answer is to be binary, too, and the size of its JSON part."""
    inputs = [
        {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": tensor.array.shape,
            "parameters": {"binary_data_size": len(tensor.raw)},
        }
        for tensor in request.inputs.values()
    ]
    head = orjson.dumps({"id": request.id, "inputs": inputs, "parameters": {"binary_data_output": True}})
    return b"".join((head, *(tensor.raw for tensor in request.inputs.values()))), len(head)


def decode_response(
    body: bytes, header_length: str | None, known: Mapping[str, Tensor], request_id: str
) -> InferResponse:
    """Read an answer with binary tensors; raises InvalidRequest when it is malformed, or another request's.

    A tensor that is the `known` one of its name is not read again.
    """
    if header_length is None:
        raise InvalidRequest("the answer has no raw tensors")
    size = read_json_size(body, header_length)
    document, binary = _read(body[:size]), memoryview(body)[size:]
    if document.get("id", "") != request_id:
        raise InvalidRequest("it is the answer to another request")
    tensors: list[Tensor] = []
    for entry in _entries(document, "outputs"):
        length = _object(entry.get("parameters")).get("binary_data_size")
        if not isinstance(length, int) or isinstance(length, bool) or not 0 <= length <= len(binary):
            raise InvalidRequest("a tensor of the answer is not binary, or longer than the answer")
        tensors.append(_tensor(entry, binary[:length], known))
        binary = binary[length:]
    if binary:
        raise InvalidRequest("bytes follow the last tensor of the answer")
    parameters = _object(document.get("parameters"))
    if not all(isinstance(value, str | int | float) for value in parameters.values()):
        raise InvalidRequest("the answer's parameters are not strings or numbers")
    return InferResponse(tensors, {key: str(value) for key, value in parameters.items()})


def decode_inputs(body: bytes) -> Sequence[TensorSpec]:
    """What the metadata of a model say of its inputs; raises InvalidRequest when they are malformed."""
    return [_spec(entry) for entry in _entries(_read(body), "inputs")]


def _read(body: bytes) -> Mapping[str, Any]:
    try:
        return _object(orjson.loads(body))
    except orjson.JSONDecodeError:
        raise InvalidRequest("the answer is not valid JSON") from None


def _entries(document: Mapping[str, Any], name: str) -> Sequence[Mapping[str, Any]]:
    entries = document.get(name)
    if not isinstance(entries, list):
        raise InvalidRequest(f"the answer has no {name}")
    return [_object(entry) for entry in entries]


def _object(value: Any) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidRequest("the answer is malformed")
    return value


def _tensor(entry: Mapping[str, Any], raw: memoryview, known: Mapping[str, Tensor]) -> Tensor:
    spec = _spec(entry)
    check_shape(spec.name, spec.shape)
    tensor = known.get(spec.name)
    same = tensor and tensor.datatype == spec.datatype and tensor.array.shape == spec.shape and tensor.raw == raw
    try:
        return tensor if tensor and same else tensor_from_raw(spec.name, spec.datatype, spec.shape, raw)
    except TooLarge as error:  # to the caller it would mean its own pictures
        raise InvalidRequest(error.sentence) from None


def _spec(entry: Mapping[str, Any]) -> TensorSpec:
    name, datatype, shape = entry.get("name"), entry.get("datatype"), entry.get("shape")
    if not isinstance(name, str) or not isinstance(datatype, str) or not isinstance(shape, list):
        raise InvalidRequest("a tensor of the answer has no name, datatype or shape")
    if len(name) > MAX_NAME or len(shape) > MAX_DIMENSIONS:
        raise InvalidRequest("a tensor of the answer has too long a name or shape")
    if any(type(size) is not int for size in shape):
        raise InvalidRequest("a tensor's shape is not of whole numbers")
    return TensorSpec(name, datatype, tuple(shape))
