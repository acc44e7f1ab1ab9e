"""Whatever a caller sends, on every interface: its code, one sentence, bounded memory, and the next request works."""

import gzip
import json
import re
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from kserve.protocol.grpc import grpc_predict_v2_pb2 as messages
from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc as services

from launch import Server
from serving.stubs import method_path
from tests.callers import INFER, RED, binary_body, grpc_request, json_request, pixels_request
from tests.pair import Pair, chunks, memory, running_pair, threads
from tests.stand_ins import SIZE
from tests.traffic import Probes
from tests.unit.transformer.urls import HOSTILE

BUDGET = 4.0  # seconds
PREDICT, V1 = "/predict/", "/v1/models/doggos:predict"
JSON, PNG = {"content-type": "application/json"}, {"content-type": "image/png"}
REFUSED = "http://10.0.0.1/"
MIB = 2**20


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    timeout = ("--request_timeout", str(BUDGET))
    with running_pair(tmp_path_factory.mktemp("bad"), timeout, timeout) as pair:
        yield pair


@pytest.fixture(scope="module", autouse=True)
def probes(pair: Pair) -> Iterator[list[Probes]]:
    with Probes(pair.predictor) as first, Probes(pair.transformer) as second:
        yield [first, second]


@pytest.fixture(scope="module")
def ask(pair: Pair) -> Iterator[Callable[[], list[Any]]]:
    """Good requests to both servers, over both protocols and connections that stay."""
    body, headers = binary_body(pixels_request(1))
    picture = json.dumps(json_request([RED]))
    with httpx.Client(timeout=60) as client, grpc.insecure_channel(pair.transformer.grpc) as channel:
        stub = services.GRPCInferenceServiceStub(channel)

        def ask() -> list[Any]:
            posts = (pair.transformer, picture, JSON), (pair.predictor, body, headers)
            codes = [client.post(f"http://{s.http}{INFER}", content=c, headers=h).status_code for s, c, h in posts]
            return [*codes, len(stub.ModelInfer(grpc_request([RED]), timeout=60).outputs)]

        yield ask


@pytest.fixture(autouse=True)
def good_again(ask: Callable[[], list[Any]]) -> Iterator[None]:
    """After whatever a test has sent, the next requests are answered."""
    yield
    assert ask() == [200, 200, 7]


def tensor(name: str = "url", shape: object = (1,), datatype: object = "BYTES", data: object = ("x",)) -> Any:
    return {"name": name, "shape": shape, "datatype": datatype, "data": data}


def v2(*tensors: Any, **fields: Any) -> str:
    return json.dumps({"inputs": tensors or [tensor(data=[REFUSED])], **fields})


def pixels(shape: object, data: object = (1,), datatype: str = "UINT8") -> str:
    return v2(tensor("pixels", shape, datatype, data))


# What both servers refuse in the same way, before they look at names.
BOTH = {
    "nothing": (400, ""),
    "zeros": (400, "\0" * 9),
    "a list": (400, "[]"),
    "not UTF-8": (400, b'{"inputs": "\xff"}'),
    "NaN": (400, '{"inputs": [{"name": "pixels", "shape": [1], "datatype": "FP32", "data": [NaN]}]}'),
    "infinite": (400, '{"inputs": [{"name": "pixels", "shape": [1], "datatype": "FP32", "data": [1e999]}]}'),
    "half a surrogate": (400, '{"inputs": [{"name": "\\ud800"}]}'),
    "deep": (400, "[" * 100_000 + "]" * 100_000),
    "deep data": (400, '{"inputs": [{"name": "x", "shape": [1], "datatype": "INT8", "data": %s}]}'
        % ("[" * 900 + "]" * 900)),
    "no inputs": (400, "{}"),
    "inputs of numbers": (400, '{"inputs": [1]}'),
    "two inputs": (400, v2(tensor("url"), tensor("image"))),
    "the same input twice": (400, v2(tensor(), tensor())),
    "no name": (400, v2(tensor(name=""))),
    "a long name": (400, v2(tensor("x" * 100_000))),
    "no shape": (400, '{"inputs": [{"name": "url", "datatype": "BYTES", "data": []}]}'),
    "shape of text": (400, v2(tensor(shape="1"))),
    "shape of booleans": (400, v2(tensor(shape=[True]))),
    "shape below zero": (400, v2(tensor(shape=[-1]))),
    "shape of a fraction": (400, v2(tensor(shape=[1.5]))),
    "shape of no integer's size": (400, v2(tensor(shape=[10**30]))),
    "empty shape that overflows": (400, v2(tensor(shape=[0, 2**64 - 1], data=[]))),
    "empty numbers whose shape overflows": (400, pixels([0, 2**62, 2**62], [])),
    "65 dimensions": (400, pixels([1] * 65)),
    "100000 dimensions": (400, v2(tensor(shape=[1] * 100_000))),
    "unknown datatype": (400, v2(tensor(datatype="STRING"))),
    "datatype of a number": (400, v2(tensor(datatype=3))),
    "data of text": (400, v2(tensor(data="x"))),
    "data of the wrong type": (400, v2(tensor(data=[1]))),
    "text for numbers": (400, pixels([1], ["1"])),
    "fractions for numbers": (400, pixels([1], [1.5])),
    "numbers out of the type's range": (400, pixels([1], [256])),
    "numbers of no type's size": (400, pixels([1], [10**25], "INT64")),
    "ragged lists": (400, pixels([3], [[1], [1, 2]])),
    "data and binary size": (400, v2({**tensor(), "parameters": {"binary_data_size": 1}})),
    "binary size beyond the body": (400, v2(
        {"name": "url", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": 2**63}})),
    "id of a number": (400, v2(id=1)),
    "parameters of a list": (400, v2(parameters=[])),
    "a parameter of null": (400, v2(parameters={"k": None})),
    "outputs of text": (400, v2(outputs="y")),
    "an unknown output": (400, v2(outputs=[{"name": "y" * 100_000}])),
    "millions of values": (413, '{"inputs": [%s1]}' % ("[]," * 1_000_000)),
}  # fmt: skip

TRANSFORMER = {
    "pixels": (INFER, 400, pixels([1])),
    "numbers for a url": (INFER, 400, v2(tensor(datatype="INT32", data=[1]))),
    "url in two dimensions": (INFER, 400, v2(tensor(shape=[1, 1]))),
    "fewer urls than the shape says": (INFER, 400, v2(tensor(shape=[2]))),
    "no base64": (INFER, 400, v2(tensor("image", data=["no base64!"]))),
    "0 urls": (INFER, 422, v2(tensor(shape=[0], data=[]))),
    "33 urls": (INFER, 422, v2(tensor(shape=[33], data=["x"] * 33))),
    "33 pictures": (INFER, 422, v2(tensor("image", shape=[33], data=[""] * 33))),
    "k of text": (INFER, 400, v2(parameters={"k": "4"})),
    "k of a boolean": (INFER, 400, v2(parameters={"k": True})),
    "k of no integer's size": (INFER, 400, v2(parameters={"k": 10**30})),
    "k 0": (INFER, 422, v2(parameters={"k": 0})),
    "n 0": (INFER, 422, v2(parameters={"n": 0})),
    "n 101": (INFER, 422, v2(parameters={"n": 101})),
    "n of a fraction": (INFER, 400, v2(parameters={"n": 1.5})),
    "partial of text": (INFER, 400, v2(parameters={"partial": "yes"})),
    "errors that nobody asked for": (INFER, 400, v2(outputs=[{"name": "error"}])),
    "the last of two equal keys counts": (INFER, 403, '{"inputs": [], ' + v2()[1:]),
    "largest k and n": (INFER, 403, v2(parameters={"k": 2**63 - 1, "n": 100})),
    "predict: nothing": (PREDICT, 400, ""),
    "predict: deep": (PREDICT, 400, '{"url":' * 5000),
    "predict: no url": (PREDICT, 400, '{"k": 1}'),
    "predict: url of a list": (PREDICT, 400, '{"url": ["x"]}'),
    "predict: another field": (PREDICT, 400, '{"url": "x", "%s": 1}' % ("y" * 1000)),
    "predict: k of text": (PREDICT, 400, json.dumps({"url": REFUSED, "k": "4"})),
    "predict: n 101": (PREDICT, 422, json.dumps({"url": REFUSED, "n": 101})),
    "predict: millions of values": (PREDICT, 413, '{"url": [%s1]}' % ("1," * 1_000_000)),
    "predict: the last of two equal keys counts": (PREDICT, 403, '{"url": 1, "url": "http://10.0.0.1/"}'),
    "v1: nothing": (V1, 400, ""),
    "v1: no instances": (V1, 400, "{}"),
    "v1: instances of lists": (V1, 400, '{"instances": [[]]}'),
    "v1: 0 pictures": (V1, 422, '{"instances": []}'),
    "v1: 33 pictures": (V1, 422, json.dumps({"instances": [{"url": "x"}] * 33})),
    "v1: k of infinity": (V1, 400, '{"instances": [{"url": "x", "k": 1e999}]}'),
    "v1: n 0": (V1, 422, json.dumps({"instances": [{"url": REFUSED, "n": 0}]})),
    "v1: not UTF-8": (V1, 400, b'{"instances": [{"url": "\xff"}]}'),
    "v1: millions of values": (V1, 413, '{"instances": [%s{}]}' % ("{}," * 1_000_000)),
}  # fmt: skip

PREDICTOR = {
    "a url": (400, v2()),
    "pixels of text": (400, v2(tensor("pixels"))),
    "pixels of another type": (400, pixels([1], [1], "INT32")),
    "pixels of one dimension": (400, pixels([1])),
    "pixels of another size": (400, pixels([1, 2, 2, 3], [1] * 12)),
    "fewer pixels than the shape says": (400, pixels([1, SIZE, SIZE, 3])),
    "0 pictures": (422, pixels([0, SIZE, SIZE, 3], [])),
    "33 pictures": (422, pixels([33, SIZE, SIZE, 3], [1] * (33 * SIZE * SIZE * 3))),
}


def check(answer: httpx.Response, code: int) -> None:
    assert answer.status_code == code, answer.text[:300]
    assert list(answer.json()) == ["error"]
    sentence = answer.json()["error"]
    assert 10 < len(sentence) < 500
    assert "\n" not in sentence


def post(server: Server, path: str, content: Any, headers: dict[str, str] = JSON) -> httpx.Response:
    content = content.encode() if isinstance(content, str) else content
    return httpx.post(f"http://{server.http}{path}", content=content, headers=headers, timeout=60)


@pytest.mark.parametrize("name", BOTH)
def test_json_that_both_servers_refuse(pair: Pair, name: str) -> None:
    for server in pair.servers:
        check(post(server, INFER, BOTH[name][1]), BOTH[name][0])


@pytest.mark.parametrize("name", TRANSFORMER)
def test_json_that_the_transformer_refuses(pair: Pair, name: str) -> None:
    path, code, body = TRANSFORMER[name]
    check(post(pair.transformer, path, body), code)


@pytest.mark.parametrize("name", PREDICTOR)
def test_json_that_the_predictor_refuses(pair: Pair, name: str) -> None:
    check(post(pair.predictor, INFER, PREDICTOR[name][1]), PREDICTOR[name][0])


def test_as_many_pictures_as_a_request_takes(pair: Pair) -> None:
    assert post(pair.transformer, INFER, json.dumps(json_request([RED] * 32, k=10**6, n=100))).status_code == 200
    assert post(pair.predictor, INFER, pixels([32, SIZE, SIZE, 3], [1] * (32 * SIZE * SIZE * 3))).status_code == 200


FORM = {"content-type": "multipart/form-data; boundary=x"}
PART = b'--x\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n'
PREDICT_BODIES = {
    "an empty picture": (400, PREDICT, b"", PNG),
    "no picture": (400, PREDICT, b"hello", PNG),
    "half a picture": (400, PREDICT, RED[:70], PNG),
    "k of two signs": (400, f"{PREDICT}?k=--5", RED, PNG),
    "k of nothing": (400, f"{PREDICT}?k=", RED, PNG),
    "k of a fraction": (400, f"{PREDICT}?k=1.5", RED, PNG),
    "k of 13 digits": (400, f"{PREDICT}?k={10**13}", RED, PNG),
    "k below zero": (422, f"{PREDICT}?k=-5", RED, PNG),
    "n 101": (422, f"{PREDICT}?n=101", RED, PNG),
    "another type": (415, PREDICT, RED, {"content-type": "application/pdf"}),
    "a compressed body": (415, PREDICT, gzip.compress(RED), {**PNG, "content-encoding": "gzip"}),
    "compressed JSON": (415, INFER, gzip.compress(v2().encode()), {**JSON, "content-encoding": "gzip"}),
    "a form without a boundary": (400, PREDICT, b"--x--", {"content-type": "multipart/form-data"}),
    "a form with an odd boundary": (400, PREDICT, b"--x--", {"content-type": "multipart/form-data; boundary=\"\""}),
    "a form of nothing": (400, PREDICT, b"", FORM),
    "a form that does not end": (400, PREDICT, PART % (b"file", b""), FORM),
    "a part without a name": (400, PREDICT, b"--x\r\nContent-Disposition: form-data\r\n\r\n1\r\n--x--\r\n", FORM),
    "a part without a disposition": (400, PREDICT, b"--x\r\n\r\n1\r\n--x--\r\n", FORM),
    "a form in no charset": (403, PREDICT, PART % (b"url", b"") + REFUSED.encode() + b"\r\n--x--\r\n",
        {"content-type": "multipart/form-data; boundary=x; charset=none"}),
    "two files": (400, PREDICT, (PART % (b"a", b'; filename="a"') + b"1\r\n") * 2 + b"--x--\r\n", FORM),
    "a thousand fields": (400, PREDICT, (PART % (b"k", b"") + b"1\r\n") * 1000 + b"--x--\r\n", FORM),
    "k of text in a form": (400, PREDICT, PART % (b"url", b"") + b"x\r\n" + PART % (b"k", b"") + b"y\r\n--x--", FORM),
    "a header that is no number": (400, INFER, v2(), {"Inference-Header-Content-Length": "-1"}),
    "a header beyond the body": (400, INFER, v2(), {"Inference-Header-Content-Length": "9999"}),
    "a header before the end": (400, INFER, v2(), {"Inference-Header-Content-Length": "9"}),
    "bytes that follow": (400, INFER, v2() + "x", {"Inference-Header-Content-Length": str(len(v2()))}),
}  # fmt: skip


@pytest.mark.parametrize("name", PREDICT_BODIES)
def test_bodies_and_headers_that_are_refused(pair: Pair, name: str) -> None:
    code, path, body, headers = PREDICT_BODIES[name]
    check(post(pair.transformer, path, body, headers), code)


def build(name: str, shape: Any, datatype: str = "BYTES", raw: bytes | None = None, **contents: Any) -> Any:
    message = messages.ModelInferRequest(model_name="doggos")
    entry = message.inputs.add(name=name, shape=shape, datatype=datatype)
    for field, values in contents.items():
        getattr(entry.contents, field).extend(values)
    if raw is not None:
        message.raw_input_contents.append(raw)
    return message


def elements(*values: bytes) -> bytes:
    return b"".join(len(value).to_bytes(4, "little") + value for value in values)


def build_many() -> Any:
    """No tensor of it has too many values, all together do."""
    message = messages.ModelInferRequest(model_name="doggos")
    for i in range(8):
        message.inputs.add(name=f"a{i}", shape=[100_000], datatype="BYTES")
        message.raw_input_contents.append(bytes(400_000))
    return message


INVALID = "INVALID_ARGUMENT"
MESSAGES = {
    "no inputs": (INVALID, messages.ModelInferRequest(model_name="doggos")),
    "another model": ("NOT_FOUND", messages.ModelInferRequest(model_name="x" * 100_000)),
    "a long name": (INVALID, build("x" * 100_000, [1], raw=elements(b"x"))),
    "a name of line breaks": (INVALID, build("\r\n\0\u2028ü", [1], raw=elements(b"x"))),
    "not UTF-8": (INVALID, build("url", [1], raw=elements(b"\xff"))),
    "a length that lies": (INVALID, build("url", [1], raw=b"\xff\xff\xff\xffx")),
    "half a length": (INVALID, build("url", [1], raw=b"\0\0")),
    "fewer than the shape says": (INVALID, build("url", [2], raw=elements(b"x"))),
    "shape below zero": (INVALID, build("url", [-1], raw=elements(b"x"))),
    "empty shape that overflows": (INVALID, build("pixels", [0, 2**62, 2**62], "UINT8", raw=b"")),
    "100000 dimensions": (INVALID, build("pixels", [1] * 100_000, "UINT8", raw=b"1")),
    "unknown datatype": (INVALID, build("url", [1], "X" * 100_000)),
    "both contents": (INVALID, build("url", [1], raw=elements(b"x"), bytes_contents=[b"x"])),
    "NaN": (INVALID, build("pixels", [1], "FP32", fp32_contents=[float("nan")])),
    "numbers out of the type's range": (INVALID, build("pixels", [1], "UINT8", uint_contents=[256])),
    "millions of values": ("RESOURCE_EXHAUSTED", build("url", [1_000_000], raw=bytes(4_000_000))),
    "millions of numbers": ("RESOURCE_EXHAUSTED", build("url", [10**6], "INT32", int_contents=np.ones(10**6, int))),
    "values of many tensors": ("RESOURCE_EXHAUSTED", build_many()),
    "above the cap": ("RESOURCE_EXHAUSTED", build("url", [1], raw=bytes(33 * MIB))),
}
URLS = {
    "0 pictures": (INVALID, build("image", [0], raw=b"")),
    "33 pictures": (INVALID, build("image", [33], raw=bytes(4 * 33))),
    "no picture": (INVALID, build("image", [1], bytes_contents=[b"hello"])),
    "an empty picture": (INVALID, build("image", [1], bytes_contents=[b""])),
    "a refused address": ("PERMISSION_DENIED", build("url", [1], raw=elements(REFUSED.encode()))),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_messages_that_both_servers_refuse(pair: Pair, name: str) -> None:
    for server in pair.servers:
        check_call(server, *MESSAGES[name])


@pytest.mark.parametrize("name", URLS)
def test_messages_that_the_transformer_refuses(pair: Pair, name: str) -> None:
    check_call(pair.transformer, *URLS[name])


@pytest.mark.parametrize("field", ["k", "n", "partial"])
def test_parameters_of_the_wrong_type_or_of_none_over_grpc(pair: Pair, field: str) -> None:
    for value in ("4", None, -1):
        message = build("url", [1], raw=elements(REFUSED.encode()))
        parameter = message.parameters[field]
        if isinstance(value, str):
            parameter.string_param = value
        elif value is not None:
            parameter.int64_param = value
        check_call(pair.transformer, INVALID, message)


def check_call(server: Server, code: str, message: Any) -> None:
    channel = grpc.insecure_channel(server.grpc, [("grpc.max_send_message_length", -1)])
    with channel, pytest.raises(grpc.RpcError) as error:
        services.GRPCInferenceServiceStub(channel).ModelInfer(message, timeout=60)
    assert (error.value.code().name, len(error.value.details()) < 500) == (code, True), error.value.details()


# Names are not for these servers to resolve, and loopback is open to them by a setting.
SAMPLE = [(url, code) for url, code in HOSTILE if not re.search(r"\.test|\.internal|localhost|127|7f00", url.lower())]


def test_hostile_urls_get_their_code_on_every_interface(pair: Pair) -> None:
    codes = {400: INVALID, 422: INVALID, 403: "PERMISSION_DENIED"}
    sample = [(url, code) for url, code in SAMPLE if code in codes and url.isascii()][::6]
    assert len(sample) > 20
    for url, code in sample:
        check(post(pair.transformer, PREDICT, json.dumps({"url": url})), code)
        check(post(pair.transformer, V1, json.dumps({"instances": [{"url": url}]})), code)
        check(post(pair.transformer, INFER, v2(tensor(data=[url]))), code)
        check_call(pair.transformer, codes[code], build("url", [1], raw=elements(url.encode())))


def test_a_body_of_a_gigabyte_is_refused_early_and_held_nowhere(pair: Pair) -> None:
    for server, path, headers in (
        (pair.transformer, PREDICT, PNG),
        (pair.transformer, INFER, JSON),
        (pair.predictor, INFER, {"Inference-Header-Content-Length": "9"}),
    ):
        before = memory(server)
        peak = 0

        def body(server: Server = server) -> Iterator[bytes]:
            nonlocal peak
            for chunk in chunks(1024 * MIB):
                peak = max(peak, memory(server))
                yield chunk

        with suppress(httpx.TransportError):  # refused and closed while this side still writes
            check(post(server, path, body(), headers), 413)
        assert peak - before < 200 * MIB, "a body of unknown length"
        with socket.create_connection(_address(server)) as caller:
            caller.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {1024 * MIB}\r\n\r\n".encode())
            assert caller.recv(100).startswith(b"HTTP/1.1 413 "), "refused by its length, before it is sent"


def _address(server: Server) -> tuple[str, int]:
    host, _, port = server.http.partition(":")
    return host, int(port)


DRIPPED = {
    "a body": (b"POST /predict/ HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n", b" ", b"408"),
    "chunks": (b"POST /predict/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n", b"408"),
    "a body that nobody reads": (b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n", b" ", b"404"),
    "headers": (b"POST /predict/ HTTP/1.1\r\nHost: x\r\n", b"X: y\r\n", b""),
    "a first line": (b"POST /", b"x", b""),
    "a body that stops": (b"POST /predict/ HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{", b"", b"408"),
}


def test_requests_that_drip_are_ended_on_both_servers(pair: Pair) -> None:
    """All at once: each is told where an answer is possible, and its connection is closed."""
    cases = [(server, *case) for server in pair.servers for case in DRIPPED.values()]
    with ThreadPoolExecutor(len(cases)) as callers:
        for (server, start, _, code), answer in zip(
            cases, callers.map(lambda case: _drip(*case[:3]), cases), strict=True
        ):
            expected = b"404" if server is pair.predictor and code == b"408" else code  # it has no /predict/
            assert answer[9:12] == expected, (start, answer)


def _drip(server: Server, start: bytes, piece: bytes) -> bytes:
    """What comes back until the server closes."""
    answer, end = b"", time.monotonic() + BUDGET + 15
    with socket.create_connection(_address(server)) as caller:
        caller.settimeout(0.2)
        try:
            caller.sendall(start)
            while time.monotonic() < end:
                try:
                    received = caller.recv(4096)
                except TimeoutError:
                    caller.sendall(piece)
                    continue
                if not received:
                    return answer
                answer += received
        except ConnectionError:
            return answer
    raise AssertionError(f"still open: {start!r}")


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (b"GARBAGE\r\n\r\n", b"400"),
        (b"POST /predict/ HTTP/1.1\r\nContent-Length: -1\r\n\r\n", b"400"),
        (b"POST /predict/ HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", b"400"),
        (b"POST /predict/ HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", b"400"),
        (b"POST /predict/ HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", b"400"),
        (b"GET /\xff HTTP/1.1\r\n\r\n", b"400"),
        (b"CONNECT x:443 HTTP/1.1\r\nHost: x\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nX: " + b"y" * 10**6, b"431"),
        (b"GET /" + b"y" * 10**6, b"431"),
        (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 10**5, b"431"),
    ],
    ids=lambda value: repr(value[:70]),
)
def test_what_is_not_http_or_has_endless_headers_is_refused(pair: Pair, request_: bytes, code: bytes) -> None:
    for server in pair.servers:
        with socket.create_connection(_address(server)) as caller:
            try:
                caller.sendall(request_)
                answer = caller.recv(4096)
            except ConnectionError:
                assert code == b"431", "closed while this side still writes"
                continue
            assert answer[9:12] == code
            assert list(json.loads(answer.partition(b"\r\n\r\n")[2])) == ["error"]


BODY = b'{"url": "http://10.0.0.1/x.png"}'
OFFERS = {
    "h2c": b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n",
    "websocket": b"Connection: Upgrade\r\nUpgrade: websocket\r\n",
    "unknown": b"Connection: keep-alive, upgrade\r\nupgrade: foo\r\n",
}


@pytest.mark.parametrize("offer", OFFERS)
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunks"])
def test_an_offer_to_upgrade_does_not_part_a_request_from_its_body(pair: Pair, offer: str, chunked: bool) -> None:
    """What followed the head was taken for a request of its own."""
    smuggled = b"GET /v2/models HTTP/1.1\r\nhost: y\r\n\r\n"
    for body, code in ((BODY, b"403"), (smuggled, b"400")):
        sent = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body) if chunked else body
        length = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % len(body)
        head = b"POST /predict/ HTTP/1.1\r\nHost: x\r\n%s%s\r\n\r\n" % (OFFERS[offer], length)
        following = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        with socket.create_connection(_address(pair.transformer)) as caller:
            caller.sendall(head)
            time.sleep(0.05)  # head and body in two packets
            caller.sendall(sent)
            caller.sendall(following)
            answer = b"".join(iter(lambda: caller.recv(4096), b""))
        codes = [part[1:4] for part in answer.split(b"HTTP/1.1")[1:]]
        assert codes == [code, b"200"], answer


def test_trailers_are_no_headers(pair: Pair) -> None:
    head = b"POST /predict/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
    head += b"Transfer-Encoding: chunked\r\n\r\n"
    chunks = b"2\r\n{}\r\n0\r\n"
    with socket.create_connection(_address(pair.transformer)) as caller:
        caller.sendall(head + chunks + b"Content-Type: image/png\r\nX-Request-Id: trailer\r\n\r\n")
        answer = b"".join(iter(lambda: caller.recv(4096), b""))
    assert answer[9:12] == b"400" and b"url is missing" in answer and b"x-request-id: trailer" not in answer


ENDLESS = {
    "trailers": (b"0\r\n", b"a: bbbbbbbbbbbbbbbb\r\n" * 5000),
    "one trailer": (b"0\r\na: ", b"b" * 100_000),
    "what may follow a chunk's size": (b"1;a=", b"b" * 100_000),
}


@pytest.mark.parametrize("kind", ENDLESS)
def test_what_is_neither_head_nor_body_ends(pair: Pair, kind: str) -> None:
    head = b"POST /predict/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n"
    begin, more = ENDLESS[kind]
    before = memory(pair.transformer)
    with socket.create_connection(_address(pair.transformer)) as caller, pytest.raises(ConnectionError):
        caller.sendall(head + begin)
        for _ in range(300):
            caller.sendall(more)
    assert memory(pair.transformer) - before < 50 * MIB


def test_callers_that_read_slowly_hold_little_and_nobody_up(pair: Pair, ask: Callable[[], list[Any]]) -> None:
    """Each asks for a lot, again and again, and takes a byte now and then."""
    body = json.dumps(json_request([RED] * 32, n=100)).encode()
    head = b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (INFER.encode(), len(body))
    before = memory(pair.transformer), threads(pair.transformer)
    with ExitStack() as stack:
        callers = [stack.enter_context(socket.socket()) for _ in range(30)]
        for caller in callers:
            caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            caller.connect(_address(pair.transformer))
            caller.sendall((head + body) * 3)
            assert caller.recv(1) == b"H"
        for _ in range(3):
            assert ask() == [200, 200, 7]
            assert all(caller.recv(1) for caller in callers)
        assert memory(pair.transformer) - before[0] < 50 * MIB
        assert threads(pair.transformer) - before[1] < 10


MANY = {
    "inputs": b"\x2a\x00",
    "raw contents": b"\x3a\x00",
    "outputs": b"\x32\x00",
    "unknown fields": b"\x78\x00",
}


@pytest.mark.parametrize("field", MANY)
def test_millions_of_empty_fields_are_refused_before_they_are_read(pair: Pair, field: str) -> None:
    data = b"\x0a\x06doggos" + MANY[field] * (15 * MIB)
    for server in pair.servers:
        before = memory(server)
        assert _call_raw(server, data) == "RESOURCE_EXHAUSTED"
        assert memory(server) - before < 150 * MIB


def test_millions_of_empty_elements_are_refused_before_they_are_read(pair: Pair) -> None:
    def wrap(tag: bytes, data: bytes) -> bytes:
        size, length = len(data), b""
        while size >= 0x80:
            length, size = length + bytes([size & 0x7F | 0x80]), size >> 7
        return tag + length + bytes([size]) + data

    elements = wrap(b"\x2a", b"\x42\x00" * (15 * MIB))  # inputs[0].contents.bytes_contents
    for server in pair.servers:
        before = memory(server)
        assert _call_raw(server, b"\x0a\x06doggos" + wrap(b"\x2a", elements)) == "RESOURCE_EXHAUSTED"
        assert memory(server) - before < 150 * MIB


def _call_raw(server: Server, data: bytes) -> str:
    with grpc.insecure_channel(server.grpc) as channel, pytest.raises(grpc.RpcError) as error:
        channel.unary_unary(method_path("ModelInfer"))(data, timeout=60)
    return str(error.value.code().name)


def test_many_binary_tensors_are_refused_before_they_are_read(pair: Pair) -> None:
    shape = {"shape": [1], "datatype": "UINT8", "parameters": {"binary_data_size": 1}}
    header = json.dumps({"inputs": [{"name": f"a{i}", **shape} for i in range(20_000)]}).encode()
    headers = {"Inference-Header-Content-Length": str(len(header))}
    for server in pair.servers:
        check(post(server, INFER, header + bytes(20 * MIB), headers), 400)


def test_values_of_many_binary_tensors_are_counted_together(pair: Pair) -> None:
    shape = {"shape": [100_000], "datatype": "BYTES", "parameters": {"binary_data_size": 400_000}}
    header = json.dumps({"inputs": [{"name": f"a{i}", **shape} for i in range(8)]}).encode()
    headers = {"Inference-Header-Content-Length": str(len(header))}
    for server in pair.servers:
        check(post(server, INFER, header + bytes(8 * 400_000), headers), 413)


def test_pictures_of_failed_calls_are_not_kept(pair: Pair) -> None:
    """Errors live in cycles that the garbage collector finds late; a picture must not wait for it."""
    picture = b"no picture" + bytes(15 * MIB)
    large = pixels_request(1)
    large.raw_input_contents[0] = picture
    for server, message in ((pair.transformer, grpc_request([picture])), (pair.predictor, large)):
        check_call(server, INVALID, message)
        before = memory(server)
        for _ in range(16):
            check_call(server, INVALID, message)
        assert memory(server) - before < 120 * MIB  # half of what was sent


def test_health_and_metrics_answered_all_the_time(probes: list[Probes]) -> None:
    for each in probes:
        assert len(each.seconds) > 100
        assert not each.failed
        assert each.p99 < 1, f"{each.p99:.3f} s"


@pytest.mark.parametrize("part", ["predictor", "transformer"])
def test_unreadable_messages_of_streams_are_the_callers_mistake(pair: Pair, part: str) -> None:
    server: Server = getattr(pair, part)
    with grpc.insecure_channel(server.grpc) as channel:
        watch = channel.unary_stream("/grpc.health.v1.Health/Watch")
        reflect = channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
        for answers in (watch(b"\xff", timeout=30), reflect(iter([b"\xff"]), timeout=30)):
            with pytest.raises(grpc.RpcError) as failure:
                next(answers)
            assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT
