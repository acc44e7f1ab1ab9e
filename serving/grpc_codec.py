"""V2 over gRPC: KServe's messages to and from the protocol's types."""

from collections.abc import Mapping
from typing import Any

from serving.errors import InvalidRequest
from serving.stubs import load_messages
from serving.v2 import (
    MAX_DIMENSIONS,
    MAX_VALUES,
    InferRequest,
    InferResponse,
    Parameter,
    Tensor,
    ValueLimit,
    check_inputs_count,
    check_shape,
    tensor_from_raw,
    tensor_from_values,
)

MAX_ENTRIES = 1000
"""Most inputs, outputs and parameters of one message together."""

_CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


def decode_request(message: Any, max_values: int = MAX_VALUES) -> InferRequest:
    """Read a ModelInferRequest; raises InvalidRequest, and TooLarge for more than `max_values` that are not raw."""
    raw = message.raw_input_contents
    if raw and len(raw) != len(message.inputs):
        raise InvalidRequest(f"{len(message.inputs)} inputs but {len(raw)} raw_input_contents")
    check_inputs_count(len(message.inputs))
    ValueLimit(MAX_ENTRIES).take(len(message.inputs) + len(message.outputs) + len(message.parameters))
    limit = ValueLimit(max_values)
    tensors: dict[str, Tensor] = {}
    for position, entry in enumerate(message.inputs):
        tensor = _tensor(entry, raw[position] if raw else None, limit)
        if tensor.name in tensors:
            raise InvalidRequest(f"input {tensor.name!r} is given twice")
        tensors[tensor.name] = tensor
    outputs = tuple(dict.fromkeys(output.name[:200] for output in message.outputs)) or None
    return InferRequest(tensors, decode_parameters(message.parameters), outputs, message.id)


def _tensor(entry: Any, raw: bytes | None, limit: ValueLimit) -> Tensor:
    name = entry.name[:200]
    shape = check_shape(name, entry.shape[: MAX_DIMENSIONS + 1])
    if raw is not None:
        if entry.HasField("contents"):
            raise InvalidRequest(f"input {name!r}: give either contents or raw_input_contents, not both")
        return tensor_from_raw(name, entry.datatype, shape, raw, limit)
    field = _CONTENTS.get(entry.datatype)
    if field is None:
        raise InvalidRequest(f"input {name!r}: datatype {entry.datatype[:40]!r} needs raw_input_contents")
    values = getattr(entry.contents, field)
    limit.take(len(values))
    return tensor_from_values(name, entry.datatype, shape, values)


def decode_parameters(parameters: Any) -> dict[str, Parameter]:
    """The values of a map of InferParameter."""
    values: dict[str, Parameter] = {}
    for key, value in parameters.items():
        kind = value.WhichOneof("parameter_choice")
        if kind is None:
            raise InvalidRequest(f"parameter {key[:200]!r} has no value")
        values[key] = getattr(value, kind)
    return values


def encode_request(model_name: str, request: InferRequest) -> Any:
    """A ModelInferRequest with raw contents."""
    messages = load_messages()
    message = messages.ModelInferRequest(model_name=model_name, id=request.id)
    for tensor in request.inputs.values():
        message.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.array.shape)
        message.raw_input_contents.append(tensor.raw)
    for name in request.outputs or ():
        message.outputs.add(name=name)
    return message


def encode_response(model_name: str, request: InferRequest, response: InferResponse, raw: bool) -> Any:
    """A ModelInferResponse; `raw` says whether the caller's tensors were raw, and so the answer's."""
    message = load_messages().ModelInferResponse(model_name=model_name, id=request.id)
    for key, value in response.parameters.items():
        message.parameters[key].string_param = value
    for tensor in response.outputs:
        output = message.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.array.shape)
        if raw:
            message.raw_output_contents.append(tensor.raw)
        else:
            getattr(output.contents, _CONTENTS[tensor.datatype]).extend(tensor.array.ravel().tolist())
    return message


def decode_response(message: Any, known: Mapping[str, Tensor]) -> InferResponse:
    """Read a ModelInferResponse with raw contents; raises InvalidRequest when it is malformed.

    A tensor that is the `known` one of its name is not read again.
    """
    if len(message.raw_output_contents) != len(message.outputs):
        raise InvalidRequest("the answer has no raw tensors")
    tensors = [
        _known(known.get(entry.name), entry, raw)
        or tensor_from_raw(entry.name, entry.datatype, tuple(entry.shape), raw)
        for entry, raw in zip(message.outputs, message.raw_output_contents, strict=True)
    ]
    return InferResponse(tensors, {k: str(v) for k, v in decode_parameters(message.parameters).items()})


def _known(tensor: Tensor | None, entry: Any, raw: bytes) -> Tensor | None:
    """`tensor`, if it is what was sent."""
    if tensor is None or tensor.raw != raw or tensor.datatype != entry.datatype:
        return None
    return tensor if tensor.array.shape == tuple(entry.shape) else None
