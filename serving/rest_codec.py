"""V2 over REST: JSON and the binary extension, to and from the protocol's types."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from serving.errors import InvalidRequest
from serving.v2 import (
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

HEADER_LENGTH = "inference-header-content-length"


@dataclass(frozen=True)
class BinaryOutputs:
    """Which outputs the caller wants in binary."""

    all: bool
    named: Mapping[str, bool]

    def wants(self, name: str) -> bool:
        return self.named.get(name, self.all)


def parse_json(body: bytes, limit: ValueLimit | None = None) -> dict[str, Any]:
    """The body's JSON object; raises InvalidRequest, and TooLarge for more values than `limit` takes."""
    (limit or ValueLimit()).take(body.count(b","))  # all but the first of a list or an object have one before them
    try:
        document = orjson.loads(body)
    except (orjson.JSONDecodeError, RecursionError):
        raise InvalidRequest("the body is not valid JSON") from None
    if not isinstance(document, dict):
        raise InvalidRequest("the body must be a JSON object")
    return document


def decode_request(
    body: bytes, header_length: str | None, max_values: int = MAX_VALUES
) -> tuple[InferRequest, BinaryOutputs]:
    """Read a request; `header_length` is the JSON part's size when binary tensors follow it."""
    size, limit = read_json_size(body, header_length), ValueLimit(max_values)
    document = parse_json(body[:size], limit)
    parameters = _parameters(document.get("parameters"), "the request")
    inputs = _inputs(document, memoryview(body)[size:], limit)
    names, named = _outputs(document.get("outputs"))
    request_id = document.get("id", "")
    if not isinstance(request_id, str):
        raise InvalidRequest("id must be a string")
    request = InferRequest(inputs, parameters, names, request_id)
    return request, BinaryOutputs(parameters.get("binary_data_output") is True, named)


def read_json_size(body: bytes, header_length: str | None) -> int:
    """How much of a body is JSON: all of it without the header. Raises InvalidRequest."""
    if header_length is None:
        return len(body)
    if not (header_length.isascii() and header_length.isdigit()) or len(header_length) > 12:
        raise InvalidRequest("Inference-Header-Content-Length must be a number of bytes")
    if int(header_length) > len(body):
        raise InvalidRequest("Inference-Header-Content-Length is larger than the body")
    return int(header_length)


def _parameters(value: Any, owner: str) -> dict[str, Parameter]:
    if value is None:
        return {}
    if not isinstance(value, dict) or any(not isinstance(v, bool | int | float | str) for v in value.values()):
        raise InvalidRequest(f"parameters of {owner} must be an object of strings, numbers and booleans")
    return value


def _inputs(document: dict[str, Any], binary: memoryview, limit: ValueLimit) -> dict[str, Tensor]:
    entries = document.get("inputs")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise InvalidRequest("inputs must be a list of tensors")
    check_inputs_count(len(entries))
    tensors: dict[str, Tensor] = {}
    for entry in entries:
        tensor, binary = _input(entry, binary, limit)
        if tensor.name in tensors:
            raise InvalidRequest(f"input {tensor.name!r} is given twice")
        tensors[tensor.name] = tensor
    if binary:
        raise InvalidRequest(f"{len(binary)} bytes follow the last binary tensor")
    return tensors


def _input(entry: dict[str, Any], binary: memoryview, limit: ValueLimit) -> tuple[Tensor, memoryview]:
    name = entry.get("name")
    if not isinstance(name, str) or not name:
        raise InvalidRequest("every input needs a name")
    name = name[:200]
    shape, datatype = check_shape(name, entry.get("shape")), entry.get("datatype", "")
    size = _parameters(entry.get("parameters"), f"input {name!r}").get("binary_data_size")
    if size is None:
        return _tensor_from_json(name, datatype, shape, entry.get("data")), binary
    if "data" in entry:
        raise InvalidRequest(f"input {name!r}: give either data or binary_data_size, not both")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= len(binary):
        raise InvalidRequest(f"input {name!r}: binary_data_size does not fit the body")
    return tensor_from_raw(name, datatype, shape, binary[:size], limit), binary[size:]


def _tensor_from_json(name: str, datatype: Any, shape: tuple[int, ...], data: Any) -> Tensor:
    if not isinstance(data, list):
        raise InvalidRequest(f"input {name!r}: data must be a list")
    if datatype != "BYTES":
        return tensor_from_values(name, datatype, shape, data)
    if not all(isinstance(value, str) for value in data):
        raise InvalidRequest(f"input {name!r}: the data are not BYTES: use a list of strings")
    tensor = tensor_from_values(name, "BYTES", shape, [value.encode() for value in data])
    return Tensor(name, "BYTES", tensor.array, is_text=True)


def _outputs(value: Any) -> tuple[tuple[str, ...] | None, dict[str, bool]]:
    if value is None or value == []:
        return None, {}
    if not isinstance(value, list):
        raise InvalidRequest("outputs must be a list")
    named: dict[str, bool] = {}
    names: list[str] = []
    for entry in value:
        name = entry.get("name") if isinstance(entry, dict) else None
        if not isinstance(name, str):
            raise InvalidRequest("every output needs a name")
        names.append(name[:200])
        binary = _parameters(entry.get("parameters"), f"output {name[:200]!r}").get("binary_data")
        if isinstance(binary, bool):
            named[name] = binary
    return tuple(dict.fromkeys(names)), named


def encode_response(
    model_name: str, request: InferRequest, response: InferResponse, binary: BinaryOutputs
) -> tuple[bytes, int | None]:
    """The body, and the size of its JSON part when binary tensors follow it."""
    blobs: list[bytes] = []
    document: dict[str, Any] = {"model_name": model_name, "outputs": []}
    if request.id:
        document["id"] = request.id
    if response.parameters:
        document["parameters"] = dict(response.parameters)
    for tensor in response.outputs:
        entry: dict[str, Any] = {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": list(tensor.array.shape),
        }
        if binary.wants(tensor.name):
            blobs.append(tensor.raw)
            entry["parameters"] = {"binary_data_size": len(blobs[-1])}
        else:
            entry["data"] = _json_values(tensor)
        document["outputs"].append(entry)
    header = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    return (header + b"".join(blobs), len(header)) if blobs else (header, None)


def _json_values(tensor: Tensor) -> Any:
    if tensor.datatype == "BYTES":
        return [value.decode(errors="replace") for value in tensor.array.ravel()]
    return tensor.array.reshape(-1)
