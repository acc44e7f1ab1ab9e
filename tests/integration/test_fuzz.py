"""Requests near the valid ones, by chance: never an unforeseen code, no crash, no growth.

`FUZZ_EXAMPLES=5000 pytest tests/integration/test_fuzz.py` looks further than the tests' own few.
"""

import io
import json
import os
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from kserve.protocol.grpc import grpc_predict_v2_pb2 as messages

from serving.stubs import method_path
from serving.v2 import DTYPES
from tests.callers import INFER, binary_body, grpc_request, json_request, pixels_request
from tests.pair import Pair, descriptors, memory, running_pair, threads
from tests.pictures import draw, encode, odd_pictures
from tests.stand_ins import SIZE

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "30"))
few = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    derandomize="FUZZ_EXAMPLES" not in os.environ,
    phases=(Phase.generate,),  # a smaller example is not worth its minutes
    suppress_health_check=list(HealthCheck),
)
HTTP_CODES = {200, 400, 403, 404, 405, 408, 413, 415, 422, 424, 429, 503, 504}
GRPC_CODES = {
    "OK", "INVALID_ARGUMENT", "PERMISSION_DENIED", "NOT_FOUND", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION",
    "UNAVAILABLE", "DEADLINE_EXCEEDED",
}  # fmt: skip
JSON = {"content-type": "application/json"}
Channels = dict[str, grpc.Channel]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with running_pair(tmp_path_factory.mktemp("fuzz"), transformer=["--fetch_timeout", "1"]) as pair:
        yield pair


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with httpx.Client(timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def channels(pair: Pair) -> Iterator[Channels]:
    channels = {server.grpc: grpc.insecure_channel(server.grpc) for server in pair.servers}
    yield channels
    for channel in channels.values():
        channel.close()


@pytest.fixture(autouse=True)
def unharmed(pair: Pair, client: httpx.Client) -> Iterator[None]:
    """Both servers answer afterwards, have logged no error, and have not grown."""
    pixels, headers = binary_body(pixels_request(1))
    for _ in range(3):
        check(client.post(pair.url + INFER, json=json_request([PICTURES[0]])), {200})
    before = [(memory(server), descriptors(server), threads(server)) for server in pair.servers]
    yield
    check(client.post(pair.url + INFER, json=json_request([PICTURES[0]])), {200})
    check(client.post(f"http://{pair.predictor.http}{INFER}", content=pixels, headers=headers), {200})
    assert not [line for line in pair.output.splitlines() if '"level": "error"' in line]
    for server, (bytes_, files, tasks) in zip(pair.servers, before, strict=True):
        assert memory(server) - bytes_ < 100e6
        assert descriptors(server) - files < 20
        assert threads(server) - tasks < 20


def check(answer: httpx.Response, codes: set[int]) -> None:
    assert answer.status_code in codes, answer.text[:500]
    if answer.status_code != 200:
        assert list(answer.json()) == ["error"], answer.text[:500]
        assert answer.json()["error"]


PICTURES = [encode(draw(SIZE, SIZE), format) for format in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")]
WHOLE = st.sampled_from([-(2**63), -1, 0, 1, 2, 3, 32, 33, 100, 101, 2**31, 2**32, 2**63 - 1])
ODD = st.one_of(st.none(), st.booleans(), WHOLE, st.floats(), st.text(max_size=5), st.just([]), st.just({}))
URLS = st.sampled_from(["", "x", "http://10.0.0.1/", "http://127.0.0.1:1/", "data:image/png;base64,AAAA", "ftp://h/"])
DATA = st.one_of(
    ODD,
    st.lists(URLS, max_size=3),
    st.lists(ODD, max_size=3),
    st.recursive(ODD, lambda inner: st.lists(inner, max_size=3), max_leaves=20),
)
TENSOR = st.fixed_dictionaries(
    {},
    optional={
        "name": st.one_of(st.sampled_from(["url", "image", "pixels"]), ODD),
        "shape": st.one_of(st.lists(WHOLE, max_size=4), st.just([1]), st.just([1, SIZE, SIZE, 3]), ODD),
        "datatype": st.one_of(st.sampled_from([*DTYPES]), ODD),
        "data": DATA,
        "parameters": st.one_of(st.fixed_dictionaries({"binary_data_size": st.one_of(WHOLE, ODD)}), ODD),
    },
)
FIELDS = st.dictionaries(st.sampled_from(["k", "n", "partial", "binary_data_output", "x"]), ODD, max_size=3)
OUTPUT = st.fixed_dictionaries({}, optional={"name": st.sampled_from(["classes", "error", "y"]), "parameters": FIELDS})
DOCUMENT = st.fixed_dictionaries(
    {},
    optional={
        "id": st.one_of(st.just("1"), ODD),
        "inputs": st.one_of(st.lists(TENSOR, min_size=1, max_size=2), ODD),
        "outputs": st.one_of(st.lists(OUTPUT, max_size=2), ODD),
        "parameters": st.one_of(FIELDS, ODD),
    },
)
EDIT = st.tuples(
    st.one_of(st.integers(0, 200), st.integers(0, 100_000)),  # often near the start
    st.sampled_from([0, 1, 2, 4, 1000]),  # how many bytes go
    st.one_of(st.sampled_from([b"", b"\0" * 4, b"\xff" * 4, b"\x7f\xff\xff\xff", b'"', b","]), st.binary(max_size=4)),
)
EDITS = st.lists(EDIT, min_size=1, max_size=5)


def edit(data: bytes, edits: list[tuple[int, int, bytes]]) -> bytes:
    for at, gone, new in edits:
        at %= len(data) + 1
        data = data[:at] + new + data[at + gone :]
    return data


@given(DOCUMENT, st.sampled_from([b"", b"\0\0\0\0", b"\1\0\0\0x"]), st.booleans())
@few
def test_documents_near_the_valid_ones(
    pair: Pair, client: httpx.Client, document: dict[str, Any], binary: bytes, has_length: bool
) -> None:
    text = json.dumps(document).encode()
    headers = {**JSON, "Inference-Header-Content-Length": str(len(text))} if has_length else JSON
    for server in pair.servers:
        check(client.post(f"http://{server.http}{INFER}", content=text + binary, headers=headers), HTTP_CODES)


@given(st.sampled_from(["/predict/", "/v1/models/doggos:predict"]), st.one_of(FIELDS, ODD, DATA), URLS)
@few
def test_documents_of_the_other_routes(pair: Pair, client: httpx.Client, path: str, rest: Any, url: str) -> None:
    fields = rest if isinstance(rest, dict) else {"k": rest}
    document = {"url": url, **fields} if path == "/predict/" else {"instances": [{"url": url, **fields}]}
    for body in (document, rest, {"url": rest}, {"instances": rest}):
        check(client.post(pair.url + path, content=json.dumps(body), headers=JSON), HTTP_CODES)


@given(st.integers(0, 1), st.booleans(), EDITS)
@few
def test_damaged_bodies(
    pair: Pair, client: httpx.Client, which: int, binary: bool, edits: list[tuple[int, int, bytes]]
) -> None:
    message = [pixels_request(1), grpc_request([PICTURES[1]])][which]
    body, headers = binary_body(message)
    if not binary:
        body, headers = json.dumps(json_request([PICTURES[1]], k=1)).encode(), JSON
    answer = client.post(f"http://{pair.servers[which].http}{INFER}", content=edit(body, edits), headers=headers)
    check(answer, HTTP_CODES)


MULTIPART = httpx.Request(
    "POST",
    "http://x",
    files={"file": PICTURES[0]},
    data={"k": "2"},
    headers={"content-type": "multipart/form-data; boundary=x"},
)


@given(EDITS, st.text("abx=;\"'-_ ", max_size=20))
@few
def test_damaged_forms(pair: Pair, client: httpx.Client, edits: list[tuple[int, int, bytes]], parameters: str) -> None:
    body = MULTIPART.read()
    for kind in ("multipart/form-data; boundary=x", f"multipart/form-data; boundary={parameters}".strip()):
        headers = {"content-type": kind}
        check(client.post(f"{pair.url}/predict/", content=edit(body, edits), headers=headers), HTTP_CODES)


def call(channel: grpc.Channel, data: bytes) -> str:
    try:
        channel.unary_unary(method_path("ModelInfer"))(data, timeout=60)
    except grpc.RpcError as error:
        return str(error.code().name)
    return "OK"


TYPED = messages.ModelInferRequest(model_name="doggos", id="1")
TYPED.parameters["k"].int64_param = 1
TYPED.outputs.add(name="classes")
TYPED.inputs.add(name="url", datatype="BYTES", shape=[1]).contents.bytes_contents.append(b"http://10.0.0.1/")


@given(st.sampled_from([TYPED, grpc_request([PICTURES[0]]), pixels_request(1)]), EDITS)
@few
def test_damaged_messages(pair: Pair, channels: Channels, message: Any, edits: list[tuple[int, int, bytes]]) -> None:
    data = edit(message.SerializeToString(), edits)
    for server in pair.servers:
        code = call(channels[server.grpc], data)
        assert code in (GRPC_CODES if readable(data) else {"INVALID_ARGUMENT"}), code


def readable(data: bytes) -> bool:
    try:
        messages.ModelInferRequest.FromString(data)
    except Exception:
        return False
    return True


NAMES = st.one_of(st.sampled_from(["url", "image", "pixels", "classes", "k", "n", "partial"]), st.text(max_size=4))


@given(st.data())
@few
def test_messages_near_the_valid_ones(pair: Pair, channels: Channels, data: st.DataObject) -> None:
    message = messages.ModelInferRequest(model_name="doggos")
    for _ in range(data.draw(st.integers(0, 2))):
        entry = message.inputs.add(name=data.draw(NAMES), datatype=data.draw(st.sampled_from([*DTYPES, "", "X"])))
        entry.shape.extend(data.draw(st.lists(WHOLE, max_size=4)))
        entry.contents.bytes_contents.extend(data.draw(st.lists(st.binary(max_size=4), max_size=2)))
        entry.contents.uint_contents.extend(data.draw(st.lists(st.integers(0, 2**32 - 1), max_size=2)))
        entry.contents.fp32_contents.extend(data.draw(st.lists(st.floats(width=32), max_size=2)))
    message.raw_input_contents.extend(data.draw(st.lists(st.binary(max_size=9), max_size=2)))
    for name in data.draw(st.lists(NAMES, max_size=2)):
        message.outputs.add(name=name)
        message.parameters[name].int64_param = data.draw(WHOLE)
    for server in pair.servers:
        assert call(channels[server.grpc], message.SerializeToString()) in GRPC_CODES


@given(st.sampled_from([*PICTURES, *odd_pictures().values()]), EDITS, st.booleans())
@few
def test_damaged_pictures(
    pair: Pair, client: httpx.Client, picture: bytes, edits: list[tuple[int, int, bytes]], as_form: bool
) -> None:
    data = edit(picture, edits)
    body: dict[str, Any] = {"content": data, "headers": {"content-type": "image/png"}}
    if as_form:
        body = {"files": {"file": io.BytesIO(data)}}
    check(client.post(f"{pair.url}/predict/", **body), {200, 400, 413})
