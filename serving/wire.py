"""How many fields a serialized ModelInferRequest has, counted before protobuf makes an object of each."""

from serving.errors import InvalidRequest, TooLarge
from serving.v2 import MAX_VALUES

MAX_FIELDS = MAX_VALUES + 4096
"""All values that are not raw, and what is around them."""

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5  # https://protobuf.dev/programming-guides/encoding
_INPUTS, _CONTENTS = 5, 5  # the numbers of ModelInferRequest.inputs and InferInputTensor.contents
_PATH = (_INPUTS, _CONTENTS)  # the only place where a request may have many fields


def check_fields(data: bytes) -> None:
    """Raise TooLarge for a message of more than MAX_FIELDS fields, InvalidRequest for what is none."""
    _Counter(memoryview(data)).count(0, len(data), _PATH)


class _Counter:
    def __init__(self, data: memoryview) -> None:
        self._data, self._fields = data, 0

    def count(self, position: int, end: int, path: tuple[int, ...]) -> None:
        """Count the fields from `position` to `end`, and those inside of the fields along `path`."""
        while position < end:
            self._fields += 1
            if self._fields > MAX_FIELDS:
                raise TooLarge(f"the message has more than {MAX_FIELDS} fields; send large tensors as raw bytes")
            tag, position = self._varint(position)
            kind, size = tag & 7, 0
            if kind == _VARINT:
                _, position = self._varint(position)
            elif kind == _LENGTH:
                size, position = self._varint(position)
                if path and tag >> 3 == path[0]:
                    self.count(position, min(position + size, end), path[1:])
            elif kind in (_FIXED64, _FIXED32):
                size = 8 if kind == _FIXED64 else 4
            else:
                raise _broken()
            position += size

    def _varint(self, position: int) -> tuple[int, int]:
        value = 0
        for shift in range(0, 70, 7):
            if position >= len(self._data):
                break
            byte = self._data[position]
            position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, position
        raise _broken()


def _broken() -> InvalidRequest:
    return InvalidRequest("the message is not valid protobuf")
