"""The V2 inference protocol's request and answer, independent of REST and gRPC."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.errors import InvalidRequest, TooLarge

Array = NDArray[Any]
Parameter = bool | int | float | str

MAX_DIMENSIONS = 8
MAX_SIZE = 2**40  # elements, with empty dimensions counted as one: numpy takes no shape that overflows
MAX_INPUTS = 8  # of a request; both models take one
MAX_VALUES = 2**18
"""Most values of a request that are not raw: each becomes a Python object, and a body has room for millions of them."""

DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(bool),
    "UINT8": np.dtype("<u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("<i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "BYTES": np.dtype(object),
}


@dataclass(frozen=True)
class TensorSpec:
    """A tensor as the metadata routes describe it; -1 is a free dimension."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Tensor:
    """A named tensor; BYTES are an object array of `bytes`."""

    name: str
    datatype: str
    array: Array
    is_text: bool = False  # BYTES that came as JSON strings: binary content is base64 there

    @classmethod
    def of_bytes(cls, name: str, values: Sequence[bytes], shape: Sequence[int]) -> "Tensor":
        array = np.empty(len(values), dtype=object)
        array[:] = values
        return cls(name, "BYTES", array.reshape(shape))

    @classmethod
    def of_strings(cls, name: str, values: Sequence[str], shape: Sequence[int]) -> "Tensor":
        return cls.of_bytes(name, [value.encode() for value in values], shape)

    @cached_property
    def raw(self) -> bytes:
        """The little-endian bytes of the protocol; made once, since a list of classes goes with every answer."""
        if self.datatype != "BYTES":
            return np.ascontiguousarray(self.array, dtype=DTYPES[self.datatype]).tobytes()
        return b"".join(len(value).to_bytes(4, "little") + value for value in self.array.ravel())


@dataclass(frozen=True)
class InferRequest:
    """What a caller asks for."""

    inputs: Mapping[str, Tensor]
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    outputs: tuple[str, ...] | None = None  # None means all
    id: str = ""


@dataclass(frozen=True)
class InferResponse:
    """What a model answers."""

    outputs: Sequence[Tensor]
    parameters: Mapping[str, str] = field(default_factory=dict)


class ValueLimit:
    """Counts the values of one request that are not raw, before they are read one by one."""

    def __init__(self, most: int = MAX_VALUES) -> None:
        self._most, self._taken = most, 0

    def take(self, values: int) -> None:
        """Count so many more; raises TooLarge."""
        self._taken += values
        if self._taken > self._most:
            raise TooLarge(f"the request has more than {self._most} values; send large tensors as raw bytes")


def check_inputs_count(count: int) -> None:
    """Raise InvalidRequest for more inputs than any model takes, before they cost anything."""
    if count > MAX_INPUTS:
        raise InvalidRequest(f"the request has {count} inputs; it can have {MAX_INPUTS} at most")


def check_shape(name: str, shape: Any) -> tuple[int, ...]:
    """Shape as a tuple of sizes; raises InvalidRequest."""
    sizes = list(shape) if isinstance(shape, Sequence) and not isinstance(shape, str) else None
    if sizes is None or any(not isinstance(s, int) or isinstance(s, bool) or s < 0 for s in sizes):
        raise InvalidRequest(f"input {name!r}: shape must be a list of sizes, 0 or more each")
    if len(sizes) > MAX_DIMENSIONS or math.prod(max(size, 1) for size in sizes) > MAX_SIZE:
        raise InvalidRequest(f"input {name!r}: its shape is too large or has more than {MAX_DIMENSIONS} dimensions")
    return tuple(sizes)


def dtype_of(name: str, datatype: Any) -> np.dtype[Any]:
    """The dtype of a V2 datatype; raises InvalidRequest when there is none."""
    dtype = DTYPES.get(datatype) if isinstance(datatype, str) else None
    if dtype is None:
        raise InvalidRequest(f"input {name!r}: unknown datatype {str(datatype)[:40]!r}; use one of {', '.join(DTYPES)}")
    return dtype


def tensor_from_raw(
    name: str, datatype: str, shape: tuple[int, ...], raw: bytes | memoryview, limit: ValueLimit | None = None
) -> Tensor:
    """Read a tensor's little-endian bytes without a copy; BYTES are length-prefixed."""
    dtype = dtype_of(name, datatype)
    if datatype == "BYTES":
        return _reshape_bytes(name, split_bytes(name, raw, limit), shape)
    expected = _count(shape) * dtype.itemsize
    if len(raw) != expected:
        raise InvalidRequest(
            f"input {name!r}: shape {list(shape)} of {datatype} takes {expected} bytes, got {len(raw)}"
        )
    return Tensor(name, datatype, np.frombuffer(raw, dtype).reshape(shape))


def tensor_from_values(name: str, datatype: str, shape: tuple[int, ...], values: Sequence[Any]) -> Tensor:
    """Read a tensor from numbers, or from `bytes` for BYTES."""
    dtype = dtype_of(name, datatype)
    if datatype == "BYTES":
        return _reshape_bytes(name, values, shape)
    array = _numbers(name, datatype, dtype, values)
    if array.size != _count(shape):
        raise InvalidRequest(f"input {name!r}: shape {list(shape)} takes {_count(shape)} values, got {array.size}")
    return Tensor(name, datatype, array.reshape(shape))


def _numbers(name: str, datatype: str, dtype: np.dtype[Any], values: Sequence[Any]) -> Array:
    try:
        given = np.asarray(values)
        array = given.astype(dtype, casting="unsafe")
    except (ValueError, TypeError, OverflowError):
        given = array = np.empty(0, dtype=object)
    if given.size and given.dtype.kind not in "biuf":
        array = np.empty(0, dtype=object)
    whole = (
        dtype.kind not in "iu" or not given.size or (given.dtype.kind in "iu" and bool(np.array_equal(given, array)))
    )
    if array.dtype != dtype or not whole:
        raise InvalidRequest(f"input {name!r}: the data are not {datatype} values")
    return array.ravel()


def _reshape_bytes(name: str, values: Sequence[bytes], shape: tuple[int, ...]) -> Tensor:
    if len(values) != _count(shape):
        raise InvalidRequest(f"input {name!r}: shape {list(shape)} takes {_count(shape)} elements, got {len(values)}")
    return Tensor.of_bytes(name, values, shape)


def _count(shape: tuple[int, ...]) -> int:
    return math.prod(shape)


def split_bytes(name: str, raw: bytes | memoryview, limit: ValueLimit | None = None) -> list[bytes]:
    """Split BYTES elements, each behind its length as four little-endian bytes."""
    values, limit = list[bytes](), limit or ValueLimit()
    view, position = memoryview(raw), 0
    while position < len(raw):
        end = position + 4 + int.from_bytes(view[position : position + 4], "little")
        if position + 4 > len(raw) or end > len(raw):
            raise InvalidRequest(f"input {name!r}: its BYTES end in the middle of an element")
        values.append(bytes(view[position + 4 : end]))
        position = end
        limit.take(1)
    return values
