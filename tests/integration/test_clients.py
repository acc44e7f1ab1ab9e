"""Stock clients, unchanged: kserve's, tritonclient's, grpcurl, curl, and a browser's form."""

import asyncio
import base64
import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, InferResponse, RESTConfig
from kserve.protocol.grpc import grpc_predict_v2_pb2 as messages
from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc as services
from kserve.protocol.infer_type import RequestedOutput

from tests.conftest import Service

ROOT = Path(__file__).parents[2]
GRPCURL = "github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.3"
SERVICES = {"grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection", "inference.GRPCInferenceService"}


@pytest.fixture(scope="module")
def expected(service: Service) -> list[dict[str, Any]]:
    """What `/predict/` answers to the first three pictures."""
    bodies = [{"url": service.picture_url(path), "k": 2, "n": 3} for path in service.held_out[:3]]
    return [httpx.post(f"{service.url}/predict/", json=body, timeout=30).json() for body in bodies]


def check(tensors: dict[str, Any], expected: list[dict[str, Any]]) -> None:
    """Compare V2 outputs with the tutorial's answers."""
    rows = len(expected)
    paths = [[match["path"] for match in answer["top_matches"]] for answer in expected]
    assert np.reshape(tensors["match_path"], (rows, -1)).tolist() == paths
    assert list(tensors["classes"]) == list(expected[0]["probabilities"])
    probabilities = [list(answer["probabilities"].values()) for answer in expected]
    np.testing.assert_allclose(np.reshape(tensors["probabilities"], (rows, -1)), probabilities, atol=1e-5)


# kserve


def rest_client() -> Any:
    return InferenceRESTClient(RESTConfig(protocol="v2", timeout=30))


def image_request(service: Service, binary: bool) -> InferRequest:
    pictures = [path.read_bytes() for path in service.held_out[:3]]
    if not binary:
        pictures = [base64.b64encode(picture) for picture in pictures]
    tensor = InferInput("image", [3], "BYTES")
    tensor.set_data_from_numpy(np.array(pictures, object), binary_data=binary)
    return InferRequest("doggos", [tensor], parameters={"k": 2, "n": 3})


def by_name(answer: InferResponse) -> dict[str, Any]:
    return {
        output.name: [value.decode() if isinstance(value, bytes) else value for value in output.as_numpy().ravel()]
        for output in answer.outputs
    }


@pytest.mark.parametrize("binary", [True, False])
def test_kserve_rest_client(service: Service, expected: list[dict[str, Any]], binary: bool) -> None:
    async def ask() -> None:
        async with rest_client() as client:
            assert await client.is_server_live(service.url)
            assert await client.is_server_ready(service.url)
            assert await client.is_model_ready(service.url, "doggos")
            request = image_request(service, binary)
            check(by_name(await client.infer(service.url, request, model_name="doggos")), expected)
            request.request_outputs = [RequestedOutput("match_count", {"binary_data": binary})]
            chosen = by_name(await client.infer(service.url, request, model_name="doggos"))
            assert chosen == {"match_count": [3, 3, 3]}

    asyncio.run(ask())


def test_kserve_rest_client_v1(service: Service, expected: list[dict[str, Any]]) -> None:
    async def ask() -> Any:
        async with InferenceRESTClient(RESTConfig(protocol="v1", timeout=30)) as client:
            assert await client.is_model_ready(service.url, "doggos")
            instance = {"url": service.picture_url(service.held_out[0]), "k": 2, "n": 3}
            return await client.infer(service.url, {"instances": [instance]}, model_name="doggos")

    assert asyncio.run(ask())["predictions"][0]["top_matches"] == expected[0]["top_matches"]


@pytest.mark.parametrize("raw", [True, False])
def test_kserve_grpc_client(service: Service, expected: list[dict[str, Any]], raw: bool) -> None:
    async def ask() -> None:
        async with InferenceGRPCClient(service.transformer.grpc, timeout=30) as client:
            assert await client.is_server_live()
            assert await client.is_server_ready()
            assert await client.is_model_ready("doggos")
            tensor = InferInput("image", [3], "BYTES")
            pictures = [path.read_bytes() for path in service.held_out[:3]]
            if raw:
                tensor.set_data_from_numpy(np.array(pictures, object), binary_data=True)
            else:
                tensor.data = pictures
            request = InferRequest("doggos", [tensor], parameters={"k": 2, "n": 3})
            check(by_name(await client.infer(request)), expected)

    asyncio.run(ask())


# tritonclient


@pytest.fixture(scope="module", params=["http", "grpc"])
def triton(request: pytest.FixtureRequest, service: Service) -> dict[str, Any]:
    """What tritonclient got, over one protocol."""
    address = service.transformer.http if request.param == "http" else service.transformer.grpc
    pictures = service.held_out[:3]
    command = [sys.executable, "-m", "tests.triton_caller", request.param, address, service.picture_url(pictures[0])]
    done = subprocess.run([*command, *map(str, pictures)], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return {"protocol": request.param, **json.loads(done.stdout)}


def test_tritonclient_infers(service: Service, triton: dict[str, Any]) -> None:
    urls = [service.picture_url(path) for path in service.held_out[:3]]
    expected = [httpx.post(f"{service.url}/predict/", json={"url": url}, timeout=30).json() for url in urls]
    check(triton["url"], expected[:1])
    check(triton["images"], expected)
    chosen = triton["chosen"]
    assert list(chosen) == ["match_path", "match_count"]
    assert (np.shape(chosen["match_path"]), chosen["match_count"]) == ((3, 2), [2, 2, 2])
    assert triton["partial"]["match_count"] == [5, 0]
    assert triton["partial"]["error"][0] == ""
    assert triton["partial"]["error"][1].startswith("403 ")
    if triton["protocol"] == "http":
        check(triton["json"], expected)
        for mixed in ("json_in_binary_out", "binary_in_json_out"):
            np.testing.assert_allclose(triton[mixed]["embedding"], triton["images"]["embedding"], atol=1e-5)


def test_tritonclient_reads_health_metadata_and_errors(service: Service, triton: dict[str, Any]) -> None:
    assert all(triton[name] is True for name in ("live", "ready", "model_ready"))
    assert triton["server"] == httpx.get(f"{service.url}/v2").json()
    names = {tensor["name"]: tensor["datatype"] for tensor in triton["model"]["outputs"]}
    assert names["match_similarity"] == "FP32"
    refusals = {"refused": ("[403]", "PERMISSION_DENIED"), "unload": ("[403]", "PERMISSION_DENIED")}
    refusals |= {"version": ("[404]", "NOT_FOUND"), "other": ("[404]", "NOT_FOUND")}
    for name, codes in refusals.items():
        assert codes[triton["protocol"] == "grpc"] in triton[name], triton[name]
    assert "address" in triton["refused"]


# grpcurl


@pytest.fixture(scope="module")
def grpcurl() -> str:
    """The real one, built once and kept."""
    go = shutil.which("go")
    if found := shutil.which("grpcurl"):
        return found
    if go is None:
        pytest.skip("grpcurl is not installed, and without Go it cannot be built")
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "doggos-tests")
    if not (folder / "grpcurl").exists():
        done = subprocess.run(
            [go, "install", GRPCURL],
            env={**os.environ, "GOBIN": str(folder)},
            capture_output=True,
            text=True,
            timeout=600,
        )
        if done.returncode:
            pytest.skip(f"grpcurl cannot be built: {done.stderr.strip().splitlines()[-1:]}")
    return str(folder / "grpcurl")


def run_grpcurl(grpcurl: str, service: Service, *arguments: str) -> "subprocess.CompletedProcess[str]":
    flags, call = arguments[:-1], arguments[-1]
    command = [grpcurl, "-plaintext", *flags, service.transformer.grpc, *call.split()]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_grpcurl_by_reflection(service: Service, grpcurl: str, expected: list[dict[str, Any]]) -> None:
    ask: Callable[..., Any] = functools.partial(run_grpcurl, grpcurl, service)
    assert set(ask("list").stdout.split()) == SERVICES
    assert "rpc ModelInfer" in ask("describe inference.GRPCInferenceService").stdout
    for name in ("", "doggos", "inference.GRPCInferenceService"):
        health = ask("-d", json.dumps({"service": name}), "grpc.health.v1.Health/Check")
        assert json.loads(health.stdout) == {"status": "SERVING"}, health.stderr
    url = base64.b64encode(service.picture_url(service.held_out[0]).encode()).decode()
    body = {
        "model_name": "doggos",
        "inputs": [{"name": "url", "datatype": "BYTES", "shape": [1], "contents": {"bytes_contents": [url]}}],
        "parameters": {"k": {"int64_param": 2}, "n": {"int64_param": 3}},
        "outputs": [{"name": "match_path"}],
    }
    answer = json.loads(ask("-d", json.dumps(body), "inference.GRPCInferenceService/ModelInfer").stdout)
    paths = answer["outputs"][0]["contents"]["bytes_contents"]
    assert [base64.b64decode(path).decode() for path in paths] == [m["path"] for m in expected[0]["top_matches"]]
    body["model_name"] = "cats"
    refused = ask("-d", json.dumps(body), "inference.GRPCInferenceService/ModelInfer")
    assert refused.returncode == 64 + grpc.StatusCode.NOT_FOUND.value[0], refused.stderr
    assert "there is no model 'cats' here" in refused.stderr


def test_reflection_and_health_on_both_servers(service: Service) -> None:
    for server in (service.transformer, service.predictor):
        with grpc.insecure_channel(server.grpc) as channel:
            assert set(ProtoReflectionDescriptorDatabase(channel).get_services()) == SERVICES
            health = health_pb2_grpc.HealthStub(channel)
            for name in ("", "inference.GRPCInferenceService"):
                request = health_pb2.HealthCheckRequest(service=name)
                assert health.Check(request).status == health_pb2.HealthCheckResponse.SERVING


# curl and forms


def curl(service: Service, *arguments: str) -> Any:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    command = ["curl", "--silent", "--show-error", "--fail-with-body", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def test_curl_in_all_forms(service: Service, expected: list[dict[str, Any]], tmp_path: Path) -> None:
    picture, route = service.held_out[0], f"{service.url}/predict/"
    body = json.dumps({"url": service.picture_url(picture), "k": 2, "n": 3})
    (tmp_path / "body.json").write_text(body)
    large = tmp_path / "large.jpg"  # above 1 MiB curl asks with Expect: 100-continue first
    large.write_bytes(picture.read_bytes() + bytes(2**21))
    query = f"{route}?k=2&n=3"
    for answer in (
        curl(service, "-d", body, route),
        curl(service, "--json", body, route),
        curl(service, "-H", "Content-Type: application/json", "--data-binary", f"@{tmp_path / 'body.json'}", route),
        curl(service, "-H", "Content-Type: image/jpeg", "--data-binary", f"@{picture}", query),
        curl(service, "-H", "Content-Type: image/jpeg", "--data-binary", f"@{large}", query),
        curl(
            service,
            "-H",
            "Transfer-Encoding: chunked",
            "-H",
            "Content-Type: image/jpeg",
            "--data-binary",
            f"@{picture}",
            query,
        ),
        curl(service, "-F", f"file=@{picture}", "-F", "k=2", "-F", "n=3", route),
        curl(service, "-F", f"picture=@{picture};type=application/octet-stream", query),
        curl(service, "-F", f"url={service.picture_url(picture)}", "-F", "k=2", "-F", "n=3", route),
    ):
        assert answer["top_matches"] == expected[0]["top_matches"]
        assert answer["probabilities"] == pytest.approx(expected[0]["probabilities"], abs=1e-5)
    instances = json.dumps({"instances": [json.loads(body)]})
    answer = curl(service, "--json", instances, f"{service.url}/v1/models/doggos:predict")
    assert answer["predictions"][0]["top_matches"] == expected[0]["top_matches"]


@pytest.mark.parametrize(
    "filename",
    [
        b"dog.jpg",
        b"",
        b'my \\"best\\" dog.jpg',
        b"my %22best%22 dog.jpg",  # as browsers write a quote today
        "Hündchen 犬 🐕.jpg".encode(),
        "H\u00fcndchen.jpg".encode("latin-1"),
        b"..\\..\\dog;x=y.jpg",
        b"a" * 300,
    ],
)
def test_a_browsers_form(service: Service, expected: list[dict[str, Any]], filename: bytes) -> None:
    """All fields of a form, as a browser sends them: the unused one is empty."""
    boundary = b"----WebKitFormBoundaryAbC123"
    picture = service.held_out[0].read_bytes()
    parts = [
        b'Content-Disposition: form-data; name="url"\r\n\r\n',
        b'Content-Disposition: form-data; name="k"\r\n\r\n2',
        b'Content-Disposition: form-data; name="n"\r\n\r\n3',
        b'Content-Disposition: form-data; name="file"; filename="%s"\r\nContent-Type: image/jpeg\r\n\r\n%s'
        % (filename, picture),
    ]
    body = b"".join(b"--%s\r\n%s\r\n" % (boundary, part) for part in parts) + b"--%s--\r\n" % boundary
    content_type = {"content-type": f"multipart/form-data; boundary={boundary.decode()}"}
    answer = httpx.post(f"{service.url}/predict/", content=body, headers=content_type, timeout=30)
    assert answer.status_code == 200, answer.text
    assert answer.json()["top_matches"] == expected[0]["top_matches"]


# metadata


def test_rest_and_grpc_agree_on_metadata(service: Service) -> None:
    for server in (service.transformer, service.predictor):
        rest = httpx.get(f"http://{server.http}/v2/models/doggos").json()
        about = httpx.get(f"http://{server.http}/v2").json()
        with grpc.insecure_channel(server.grpc) as channel:
            stub = services.GRPCInferenceServiceStub(channel)
            model = stub.ModelMetadata(messages.ModelMetadataRequest(name="doggos"))
            server_metadata = stub.ServerMetadata(messages.ServerMetadataRequest())
        assert (model.name, model.platform) == (rest["name"], rest["platform"])
        for over_grpc, over_rest in ((model.inputs, rest["inputs"]), (model.outputs, rest["outputs"])):
            described = [{"name": t.name, "datatype": t.datatype, "shape": list(t.shape)} for t in over_grpc]
            assert described == over_rest
        assert about == {
            "name": server_metadata.name,
            "version": server_metadata.version,
            "extensions": list(server_metadata.extensions),
        }
        for path in ("/v1/models", "/v2/models"):
            assert httpx.get(f"http://{server.http}{path}").json() == {"models": ["doggos"]}


def test_metadata_are_true_of_the_answer(service: Service) -> None:
    outputs = httpx.get(f"{service.url}/v2/models/doggos").json()["outputs"]
    url = {"name": "url", "shape": [1], "datatype": "BYTES", "data": [service.picture_url(service.held_out[0])]}
    request = {"inputs": [url], "parameters": {"partial": True}}
    answer = httpx.post(f"{service.url}/v2/models/doggos/infer", json=request, timeout=30).json()["outputs"]
    assert [tensor["name"] for tensor in answer] == [tensor["name"] for tensor in outputs]
    for told, found in zip(outputs, answer, strict=True):
        assert told["datatype"] == found["datatype"]
        assert len(told["shape"]) == len(found["shape"])
        assert all(size in (-1, real) for size, real in zip(told["shape"], found["shape"], strict=True))
