"""The V2 protocol over REST and gRPC, on both servers."""

import base64
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from kserve.protocol.grpc import grpc_predict_v2_pb2 as messages
from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc as services

from serving.v2 import split_bytes
from tests.conftest import Service

INFER = "/v2/models/doggos/infer"


@pytest.fixture
def stub(service: Service) -> Iterator[Any]:
    with grpc.insecure_channel(service.transformer.grpc) as channel:
        yield services.GRPCInferenceServiceStub(channel)


def infer(service: Service, body: dict[str, Any]) -> httpx.Response:
    return httpx.post(service.url + INFER, json=body, timeout=30)


def tensors(answer: httpx.Response) -> dict[str, dict[str, Any]]:
    assert answer.status_code == 200, answer.text
    return {tensor["name"]: tensor for tensor in answer.json()["outputs"]}


def urls(service: Service, count: int) -> list[str]:
    return [service.picture_url(path) for path in service.held_out[:count]]


def url_input(values: list[str]) -> dict[str, Any]:
    return {"name": "url", "shape": [len(values)], "datatype": "BYTES", "data": values}


def test_rest_answers_like_the_predict_route(service: Service) -> None:
    url = urls(service, 1)[0]
    expected = httpx.post(f"{service.url}/predict/", json={"url": url, "k": 3, "n": 4}, timeout=30).json()
    answer = tensors(infer(service, {"id": "7", "parameters": {"k": 3, "n": 4}, "inputs": [url_input([url])]}))
    classes = answer["classes"]["data"]
    np.testing.assert_allclose(
        answer["probabilities"]["data"], [expected["probabilities"][name] for name in classes], atol=1e-6
    )
    assert answer["match_path"]["data"] == [match["path"] for match in expected["top_matches"]]
    assert answer["match_class"]["data"] == [match["class"] for match in expected["top_matches"]]
    assert answer["match_count"]["data"] == [4]
    assert answer["match_similarity"]["shape"] == [1, 4]


def test_url_image_and_grpc_agree(service: Service, stub: Any) -> None:
    paths = service.held_out[:3]
    by_url = tensors(infer(service, {"inputs": [url_input(urls(service, 3))]}))
    encoded = [base64.b64encode(path.read_bytes()).decode() for path in paths]
    image_input = {"name": "image", "shape": [3], "datatype": "BYTES", "data": encoded}
    by_image = tensors(infer(service, {"inputs": [image_input]}))
    assert by_url["match_path"] == by_image["match_path"]
    message = messages.ModelInferRequest(model_name="doggos")
    message.inputs.add(name="image", datatype="BYTES", shape=[3])
    raw = b"".join(len(data).to_bytes(4, "little") + data for data in (path.read_bytes() for path in paths))
    message.raw_input_contents.append(raw)
    over_grpc = stub.ModelInfer(message, timeout=30)
    named = dict(zip([output.name for output in over_grpc.outputs], over_grpc.raw_output_contents, strict=True))
    probabilities = np.frombuffer(named["probabilities"], "<f4").reshape(3, -1)
    np.testing.assert_allclose(probabilities.ravel(), by_url["probabilities"]["data"], atol=1e-5)
    assert [p.decode() for p in split_bytes("", named["match_path"])] == by_url["match_path"]["data"]


def test_typed_grpc_contents_come_back_typed(service: Service, stub: Any) -> None:
    message = messages.ModelInferRequest(model_name="doggos", id="x")
    message.parameters["k"].int64_param = 1
    entry = message.inputs.add(name="url", datatype="BYTES", shape=[1])
    entry.contents.bytes_contents.append(urls(service, 1)[0].encode())
    message.outputs.add(name="match_class")
    message.outputs.add(name="match_count")
    answer = stub.ModelInfer(message, timeout=30)
    assert answer.id == "x"
    assert [output.name for output in answer.outputs] == ["match_class", "match_count"]
    assert len(set(answer.outputs[0].contents.bytes_contents)) == 1  # k = 1
    assert list(answer.outputs[1].contents.int_contents) == [5]


def test_binary_extension_both_ways(service: Service) -> None:
    data = service.held_out[0].read_bytes()
    tensor = len(data).to_bytes(4, "little") + data
    header = (
        b'{"inputs":[{"name":"image","datatype":"BYTES","shape":[1],"parameters":{"binary_data_size":%d}}],'
        b'"outputs":[{"name":"embedding","parameters":{"binary_data":true}},{"name":"match_count"}]}' % len(tensor)
    )
    answer = httpx.post(
        service.url + INFER, content=header + tensor, headers={"Inference-Header-Content-Length": str(len(header))}
    )
    assert answer.status_code == 200, answer.text
    length = int(answer.headers["inference-header-content-length"])
    embedding = np.frombuffer(answer.content[length:], "<f4")
    expected = tensors(infer(service, {"inputs": [url_input(urls(service, 1))]}))["embedding"]
    assert expected["shape"] == [1, len(embedding)]
    np.testing.assert_allclose(embedding, expected["data"], atol=1e-5)


def test_one_bad_picture_fails_the_request_naming_it(service: Service) -> None:
    answer = infer(service, {"inputs": [url_input([*urls(service, 2), f"{service.pictures}/none.jpg"])]})
    assert answer.status_code == 424
    assert answer.json()["error"].startswith("picture 2: ")


def test_partial_answers_the_good_pictures(service: Service) -> None:
    good = urls(service, 2)
    request = {"parameters": {"partial": True}, "inputs": [url_input([good[0], "http://10.1.1.1/", good[1]])]}
    answer = tensors(infer(service, request))
    alone = tensors(infer(service, {"inputs": [url_input([good[1]])]}))
    assert answer["match_count"]["data"] == [5, 0, 5]
    errors = answer["error"]["data"]
    assert [bool(error) for error in errors] == [False, True, False]
    assert errors[1].startswith("403 ")
    assert answer["match_path"]["data"][10:] == alone["match_path"]["data"]
    assert answer["match_path"]["data"][5:10] == [""] * 5
    classes = len(answer["classes"]["data"])
    assert answer["probabilities"]["data"][classes : 2 * classes] == [0] * classes
    request["inputs"] = [url_input(["http://10.1.1.1/", "ftp://x/"])]
    assert infer(service, request).status_code == 403, "when every row fails, so does the request"


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, {}),
        (400, {"inputs": []}),
        (400, {"inputs": [{"name": "pixels", "shape": [1], "datatype": "BYTES", "data": ["x"]}]}),
        (400, {"inputs": [{"name": "url", "shape": [1], "datatype": "FP32", "data": [1.0]}]}),
        (400, {"inputs": [{"name": "url", "shape": [2], "datatype": "BYTES", "data": ["x"]}]}),
        (400, {"inputs": [{"name": "url", "shape": [1, 1], "datatype": "BYTES", "data": ["x"]}]}),
        (400, {"inputs": [{"name": "url", "shape": [-1], "datatype": "BYTES", "data": ["x"]}]}),
        (400, {"inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": ["no base64!"]}]}),
        (
            400,
            {
                "inputs": [{"name": "url", "shape": [1], "datatype": "BYTES", "data": ["x"]}],
                "outputs": [{"name": "y"}],
            },
        ),
        (422, {"inputs": [{"name": "url", "shape": [0], "datatype": "BYTES", "data": []}]}),
        (422, {"inputs": [{"name": "url", "shape": [33], "datatype": "BYTES", "data": ["x"] * 33}]}),
        (422, {"inputs": [{"name": "url", "shape": [1], "datatype": "BYTES", "data": ["x"]}], "parameters": {"k": -1}}),
    ],
)  # fmt: skip
def test_malformed_requests_get_their_code(service: Service, stub: Any, status: int, body: dict[str, Any]) -> None:
    answer = infer(service, body)
    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["error"]


def test_metadata_tells_names_types_and_shapes(service: Service, stub: Any) -> None:
    rest = httpx.get(f"{service.url}/v2/models/doggos").json()
    assert {tensor["name"]: tensor["shape"] for tensor in rest["outputs"]}["probabilities"] == [-1, 16]
    over_grpc = stub.ModelMetadata(messages.ModelMetadataRequest(name="doggos"))
    assert [(t.name, t.datatype, list(t.shape)) for t in over_grpc.outputs] == [
        (t["name"], t["datatype"], t["shape"]) for t in rest["outputs"]
    ]
    predictor = httpx.get(f"http://{service.predictor.http}/v2/models/doggos").json()
    assert predictor["inputs"] == [{"name": "pixels", "datatype": "UINT8", "shape": [-1, 224, 224, 3]}]


def test_health_and_closed_repository(service: Service, stub: Any) -> None:
    for server in (service.transformer, service.predictor):
        for path in ("/", "/v2/health/live", "/v2/health/ready", "/v2/models/doggos/ready", "/v1/models/doggos"):
            assert httpx.get(f"http://{server.http}{path}").status_code == 200, path
        assert httpx.get(f"http://{server.http}/v2/models/other/ready").status_code == 404
        assert httpx.post(f"http://{server.http}/v2/repository/models/doggos/unload").status_code == 403
        with grpc.insecure_channel(server.grpc) as channel:
            request = health_pb2.HealthCheckRequest(service="doggos")
            assert health_pb2_grpc.HealthStub(channel).Check(request).status == health_pb2.HealthCheckResponse.SERVING
    assert stub.ModelReady(messages.ModelReadyRequest(name="doggos")).ready
    with pytest.raises(grpc.RpcError) as refused:
        stub.RepositoryModelUnload(messages.RepositoryModelUnloadRequest(model_name="doggos"))
    assert refused.value.code() == grpc.StatusCode.PERMISSION_DENIED
    assert httpx.get(f"{service.url}/v2/models/doggos/ready").json()["ready"] is True


def test_grpc_errors_have_their_status(service: Service, stub: Any) -> None:
    def code(url: str, model: str = "doggos") -> tuple[grpc.StatusCode, str]:
        message = messages.ModelInferRequest(model_name=model)
        message.inputs.add(name="url", datatype="BYTES", shape=[1]).contents.bytes_contents.append(url.encode())
        with pytest.raises(grpc.RpcError) as error:
            stub.ModelInfer(message, timeout=30)
        return error.value.code(), error.value.details()

    assert code("http://169.254.169.254/")[0] == grpc.StatusCode.PERMISSION_DENIED
    assert code("http://127.0.0.1:9/")[0] == grpc.StatusCode.FAILED_PRECONDITION
    assert code("not a url")[0] == grpc.StatusCode.INVALID_ARGUMENT
    assert code("http://127.0.0.1/", model="cats")[0] == grpc.StatusCode.NOT_FOUND
