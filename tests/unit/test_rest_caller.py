"""Answers that no V2 server gives: a sentence, never another error and never another request's tensors."""

from typing import Any

import numpy as np
import orjson
import pytest

from serving.errors import InvalidRequest
from serving.rest_caller import decode_inputs, decode_response, encode_request
from serving.rest_codec import decode_request
from serving.v2 import InferRequest, Tensor

GOOD: dict[str, Any] = {"name": "x", "datatype": "FP32", "shape": [2], "parameters": {"binary_data_size": 8}}
NUMBERS = np.array([1, 2], "<f4")


def answer(document: dict[str, Any], binary: bytes = NUMBERS.tobytes()) -> tuple[bytes, str]:
    head = orjson.dumps({"id": "7", **document})
    return head + binary, str(len(head))


def test_what_is_sent_is_what_the_server_reads() -> None:
    tensor = Tensor("pixels", "UINT8", np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3))
    body, size = encode_request(InferRequest({"pixels": tensor}, id="7"))
    request, binary = decode_request(body, str(size))
    assert (request.id, binary.all, binary.named) == ("7", True, {})
    assert np.array_equal(request.inputs["pixels"].array, tensor.array)


def test_a_known_tensor_is_not_read_again() -> None:
    body, size = answer({"outputs": [GOOD], "parameters": {"clip": "a", "contract": 1}})
    first = decode_response(body, size, {}, "7")
    assert first.parameters == {"clip": "a", "contract": "1"}
    assert np.array_equal(first.outputs[0].array, NUMBERS)
    assert decode_response(body, size, {"x": first.outputs[0]}, "7").outputs[0] is first.outputs[0]
    other = Tensor("x", "FP32", np.array([1, 3], "<f4"))
    assert decode_response(body, size, {"x": other}, "7").outputs[0] is not other


WRONG: dict[str, tuple[dict[str, Any], bytes]] = {
    "no outputs": ({}, b""),
    "another request's": ({"id": "8", "outputs": [GOOD]}, NUMBERS.tobytes()),
    "not an object": ({"outputs": [1]}, b""),
    "no shape": ({"outputs": [{**GOOD, "shape": None}]}, NUMBERS.tobytes()),
    "letters": ({"outputs": [{**GOOD, "shape": ["2"]}]}, NUMBERS.tobytes()),
    "lists": ({"outputs": [{**GOOD, "shape": [300_000_000, [1]]}]}, NUMBERS.tobytes()),
    "negative": ({"outputs": [{**GOOD, "shape": [-2]}]}, NUMBERS.tobytes()),
    "huge": ({"outputs": [{**GOOD, "shape": [2**62, 2**62]}]}, NUMBERS.tobytes()),
    "many dimensions": ({"outputs": [{**GOOD, "shape": [1] * 10_000}]}, NUMBERS.tobytes()),
    "long name": ({"outputs": [{**GOOD, "name": "x" * 10_000}]}, NUMBERS.tobytes()),
    "not binary": ({"outputs": [{**GOOD, "parameters": {}, "data": [1, 2]}]}, NUMBERS.tobytes()),
    "true bytes": ({"outputs": [{**GOOD, "parameters": {"binary_data_size": True}}]}, b"1"),
    "too few bytes": ({"outputs": [GOOD]}, b"1234567"),
    "too many bytes": ({"outputs": [GOOD]}, NUMBERS.tobytes() + b"1"),
    "deep": ({"outputs": [GOOD], "parameters": {"clip": [[[]]]}}, NUMBERS.tobytes()),
    "too many names": (
        {"outputs": [{**GOOD, "datatype": "BYTES", "shape": [300_000], "parameters": {"binary_data_size": 1_200_000}}]},
        bytes(1_200_000),
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_malformed_answer_is_refused(name: str) -> None:
    document, binary = WRONG[name]
    with pytest.raises(InvalidRequest) as refused:
        decode_response(*answer(document, binary), {}, "7")
    assert len(refused.value.sentence) < 300


@pytest.mark.parametrize("length", [None, "", "-1", "\u00b2", "999", "9" * 5000])
def test_a_header_length_that_is_none_is_refused(length: str | None) -> None:
    with pytest.raises(InvalidRequest):
        decode_response(answer({"outputs": [GOOD]})[0], length, {}, "7")


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"{}", b'{"inputs": [{"name": "pixels"}]}'])
def test_malformed_metadata_are_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        decode_inputs(body)
