"""Known traffic leaves exactly its numbers in the metrics, one JSON line each in the logs, and no secret anywhere."""

import json
import socket
from base64 import b64encode
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from kserve.protocol.grpc import grpc_predict_v2_pb2 as messages
from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc as services

from launch import Server
from tests.callers import INFER, read_metrics, wait_until
from tests.pair import Pair, running_pair
from tests.picture_host import answer

SECRET = "s3cr3t"
TOKEN = f"a-token.of-{SECRET}"
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with running_pair(tmp_path_factory.mktemp("watched"), transformer=["--fetch_timeout", "1"]) as pair:
        yield pair


def post(pair: Pair, url: str, **headers: str) -> httpx.Response:
    return httpx.post(f"{pair.url}/predict/", json={"url": url}, headers=headers, timeout=60)


def ask(pair: Pair, urls: list[str], **parameters: Any) -> httpx.Response:
    tensor = {"name": "url", "shape": [len(urls)], "datatype": "BYTES", "data": urls}
    return httpx.post(pair.url + INFER, json={"inputs": [tensor], "parameters": parameters}, timeout=60)


def call(pair: Pair, url: str, **metadata: str) -> str:
    message = messages.ModelInferRequest(model_name="doggos")
    message.inputs.add(name="url", shape=[1], datatype="BYTES").contents.bytes_contents.append(url.encode())
    headers = tuple((name.replace("_", "-"), value) for name, value in metadata.items())
    with grpc.insecure_channel(pair.transformer.grpc) as channel:
        try:
            services.GRPCInferenceServiceStub(channel).ModelInfer(message, metadata=headers, timeout=60)
        except grpc.RpcError as error:
            return str(error.code().name)
    return "OK"


def lines(pair: Pair) -> list[list[dict[str, Any]]]:
    """The log lines of both processes: every line is a JSON object."""
    return [[json.loads(line) for line in server.log.read_text().splitlines()] for server in pair.servers]


def increase(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """What has changed of our own counters, without times."""
    ours = {name: after[name] - before.get(name, 0) for name in after if name.startswith("doggos_")}
    skipped = ("seconds_sum", "seconds_total", "_created", "_bucket")
    return {name: value for name, value in ours.items() if value and not any(part in name for part in skipped)}


def test_known_traffic_leaves_exactly_its_numbers(pair: Pair) -> None:
    red, blue, missing = pair.host.url("/red.png"), pair.host.url("/blue.png"), pair.host.url("/none.png")
    pair.host.pictures["/text.png"] = b"hello"
    before = [read_metrics(server) for server in pair.servers]
    assert post(pair, red).status_code == 200
    assert post(pair, pair.host.url("/text.png")).status_code == 400
    assert post(pair, "http://10.0.0.1/").status_code == 403
    assert post(pair, missing).status_code == 424
    assert ask(pair, [red, blue, pair.host.url("/green.png")]).status_code == 200
    assert ask(pair, [red, missing, blue], partial=True).status_code == 200
    assert call(pair, blue) == "OK"
    assert call(pair, "http://10.0.0.1/") == "PERMISSION_DENIED"
    assert httpx.post(f"{pair.url}/predict/", content=b"{").status_code == 400
    assert httpx.get(f"{pair.url}/v2/models/doggos").status_code == 200, "not an inference request"
    after = [read_metrics(server) for server in pair.servers]
    predictor, transformer = (increase(*both) for both in zip(before, after, strict=True))
    assert transformer == {
        "doggos_requests_total{code=200,protocol=http}": 3,
        "doggos_requests_total{code=400,protocol=http}": 2,
        "doggos_requests_total{code=403,protocol=http}": 1,
        "doggos_requests_total{code=424,protocol=http}": 1,
        "doggos_requests_total{code=OK,protocol=grpc}": 1,
        "doggos_requests_total{code=PERMISSION_DENIED,protocol=grpc}": 1,
        "doggos_fetch_seconds_count{code=200}": 1 + 1 + 3 + 2 + 1,
        "doggos_fetch_seconds_count{code=403}": 2,
        "doggos_fetch_seconds_count{code=424}": 2,
        "doggos_fetch_failures_total{reason=address_refused}": 2,
        "doggos_fetch_failures_total{reason=status}": 2,
        "doggos_own_seconds_count": 4,
        "doggos_request_duration_seconds_count{protocol=grpc}": 2,
        "doggos_request_duration_seconds_count{protocol=http}": 7,
        "doggos_stage_seconds_count{stage=fetch}": 8,
        "doggos_stage_seconds_count{stage=decode}": 5,
        "doggos_stage_seconds_count{stage=predict}": 4,
        "doggos_stage_seconds_count{stage=search}": 4,
    }
    assert predictor == {
        "doggos_requests_total{code=200,protocol=http}": 4,
        "doggos_own_seconds_count": 4,
        "doggos_request_duration_seconds_count{protocol=http}": 4,
        "doggos_stage_seconds_count{stage=queue}": 4,
        "doggos_stage_seconds_count{stage=forward}": 4,
        "doggos_queue_wait_seconds_count": 4,
        "doggos_batch_size_count": 4,
        "doggos_batch_size_sum": 1 + 3 + 2 + 1,
    }
    for metrics in after:
        assert metrics["doggos_request_seconds_total"] > 0
    assert after[0]["doggos_busy_seconds_total"] > 0
    assert after[0]["doggos_queue_depth"] == 0
    assert after[1]["doggos_predictor_up"] == 1
    for server in pair.servers:
        assert httpx.get(f"http://{server.http}/metrics").status_code == 404


def test_a_request_can_be_followed_through_both_processes(pair: Pair) -> None:
    red = pair.host.url("/red.png")
    given = {"x-request-id": "over-http", "traceparent": TRACE}
    assert post(pair, red, **given).headers["x-request-id"] == "over-http"
    assert call(pair, red, x_request_id="over-grpc", traceparent=TRACE) == "OK"
    assert post(pair, "http://10.0.0.1/", **{"x-request-id": "refused"}).status_code == 403
    assert len(post(pair, red, **{"x-request-id": "not one token"}).headers["x-request-id"]) == 32
    wait_until(lambda: len(lines(pair)[0]) >= 4, "the predictor's lines")
    for process, stages in zip(
        lines(pair), ({"queue", "forward"}, {"fetch", "decode", "predict", "search"}), strict=True
    ):
        for line in process:
            assert {"time", "level", "message"} <= set(line)
        for name, protocol, path in (("over-http", "http", "/predict/"), ("over-grpc", "grpc", "ModelInfer")):
            (line,) = [line for line in process if line.get("request_id") == name]
            assert line["traceparent"] == TRACE
            assert set(line["stages"]) == stages
            assert line["milliseconds"] >= max(line["stages"].values()) > 0
            assert line["code"] in (200, "OK")
            if "fetch" in stages:
                assert (line["protocol"], line["path"]) == (protocol, path)
    (refused,) = [line for line in lines(pair)[1] if line.get("request_id") == "refused"]
    assert (refused["code"], set(refused["stages"])) == (403, {"fetch"})


def test_no_secret_of_a_url_reaches_logs_errors_or_metrics(pair: Pair) -> None:
    """Down every path that fails, and one that does not."""
    host = pair.host
    query = f"?token={SECRET}&q='{SECRET}\"\\{SECRET} {SECRET}"
    location = f"http://user:{SECRET}@127.0.0.1/{query}"
    host.answers[f"/to?token={SECRET}"] = answer(b"", f"Location: {location}", status="302 Found")
    host.answers[f"/bad?token={SECRET}"] = b"HTTP/1.1 200 " + SECRET.encode() + b"\r\nBroken " + SECRET.encode()
    host.pictures[f"/red.png?token={SECRET}"] = host.pictures["/red.png"]
    host.pictures[f"/text.png?token={SECRET}"] = b"hello"
    paths = ["/red.png", "/text.png", "/to", "/bad", "/none.png", "/status/500", "/close", "/reset", "/silent", "/huge"]
    urls = [host.url(f"{path}?token={SECRET}") for path in paths]
    urls += [f"http://{name}/{query}" for name in ("10.0.0.1", "no.such.name.invalid", "127.0.0.1:1", "a b", "[::1")]
    urls += [f"http://user:{SECRET}@127.0.0.1/", f"http://{SECRET}@10.0.0.1/", f"ftp://user:{SECRET}@h/{query}"]
    urls += [f"https://127.0.0.1:{host.port}/?{SECRET}", f"data:text/plain,{SECRET}", f"data:image/png,{SECRET}"]
    urls += [f"http://127.0.0.1:99999/?{SECRET}", f"http://h/?{SECRET}" + "x" * 9000, f"http://h/\0?{SECRET}"]
    told = []
    for url in urls:
        told.append(post(pair, url).text)
        told.append(ask(pair, [url, host.url("/red.png")], partial=True).text)
        call(pair, url)
    assert len(set(told)) > 10
    path = f"{pair.url}/predict/http://user:{SECRET}@h/?k={SECRET}"
    told.append(httpx.post(path, content=SECRET, headers={"authorization": SECRET, "cookie": SECRET}).text)
    metrics = [httpx.get(f"http://{server.metrics}/metrics").text for server in pair.servers]
    for text in (*told, *metrics, pair.output):
        assert SECRET not in text
    assert len(lines(pair)[1]) > len(urls) * 3


ODD_TRACES = ("00-" + SECRET, f"00-{'0' * 32}-{SECRET}-01", SECRET * 2000, TRACE + SECRET)
ODD_IDS = (f"{SECRET} x", SECRET * 2000, f"{SECRET}\u00fc")


def test_nothing_that_a_caller_sends_is_written(watched: Pair) -> None:
    """Every header and field, on every interface of both servers: well-formed, odd, and not even text."""
    for server in watched.servers:
        send_over_http(server)
        send_over_grpc(server)
        assert httpx.get(f"http://{server.http}/v2/health/live").status_code == 200
    metrics = [httpx.get(f"http://{server.metrics}/metrics").text for server in watched.servers]
    for text in (*metrics, watched.output):
        assert SECRET not in text
        assert b64encode(SECRET.encode()).decode() not in text
    assert len(lines(watched)[0]) > 20 and len(lines(watched)[1]) > 20
    assert not [line for process in lines(watched) for line in process if line["level"] == "error"]
    assert max(len(line) for line in watched.output.splitlines()) < 2000


@pytest.fixture
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    token = ("--repository_token", TOKEN)
    with running_pair(tmp_path_factory.mktemp("secrets"), token, token) as pair:
        yield pair


def send_over_http(server: Server) -> None:
    tensor = {"name": SECRET, "shape": [1], "datatype": SECRET, "data": [SECRET], "parameters": {SECRET: SECRET}}
    named = {"id": SECRET, "inputs": [tensor], "parameters": {SECRET: SECRET}, "outputs": [{"name": SECRET}]}
    data = [f"data:image/png;base64,{SECRET}", f"data:{SECRET},x", b64encode(SECRET.encode()).decode(), SECRET]
    good = [
        {"name": name, "shape": [1], "datatype": "BYTES", "data": [text]} for name in ("url", "image") for text in data
    ]
    bodies: list[Any] = [named, *({**named, "inputs": [entry], "outputs": []} for entry in good)]
    bodies += [{"url": SECRET, "k": SECRET}, {SECRET: SECRET}, {"instances": [{"url": SECRET, SECRET: SECRET}]}]
    headers = dict.fromkeys(("authorization", "cookie", "referer", "user-agent", "tracestate", "x-api-key"), SECRET)
    url = f"http://{server.http}"
    with httpx.Client(base_url=url, headers=headers, timeout=60, trust_env=False) as client:
        for path in (INFER, "/predict/", "/v1/models/doggos:predict", f"/predict/?k={SECRET}&{SECRET}"):
            for body in bodies:
                client.post(path, json=body)
            client.post(path, content=f'{{"{SECRET}')
            client.post(path, content=SECRET, headers={"content-type": f"image/{SECRET}"})
            client.post(path, content=SECRET, headers={"content-encoding": SECRET, "content-type": SECRET})
            client.post(path, content=SECRET, headers={"inference-header-content-length": SECRET})
            client.post(path, files={SECRET: (SECRET, SECRET.encode())}, data={SECRET: SECRET, "k": SECRET})
        for trace in ODD_TRACES:
            client.post(INFER, content=b"{}", headers={"traceparent": trace})
        for request_id in ODD_IDS:
            answer = client.post(INFER, content=b"{}", headers={"x-request-id": request_id.encode()})
            assert len(answer.headers["x-request-id"]) == 32, "one of ours"
        for token, code in ((TOKEN, 200), (SECRET, 401), (f"{TOKEN}{SECRET}", 401)):
            bearer = {"authorization": f"Bearer {token}"}
            assert client.post("/v2/repository/models/doggos/load", headers=bearer).status_code == code
        assert client.post(f"/{'x' * 50_000}").status_code == 404
    send_raw(server, b"GET /?%s HTTP/1.1\r\nX: %s\r\n: %s\r\n\r\n")
    send_raw(server, b"%s %s %s\r\n\r\n")
    send_raw(
        server, b"POST /predict/ HTTP/1.1\r\nX-Request-Id: \xff%s\r\ntraceparent: \xff%s\r\nCookie: \x80%s\r\n\r\n"
    )


def send_raw(server: Server, form: bytes) -> None:
    host, port = server.http.split(":")
    with socket.create_connection((host, int(port))) as caller:
        caller.sendall(form % ((SECRET.encode(),) * 3))
        assert caller.recv(100).startswith(b"HTTP/1.1 4")


def send_over_grpc(server: Server) -> None:
    message = messages.ModelInferRequest(model_name="doggos", id=SECRET)
    entry = message.inputs.add(name=SECRET, shape=[1], datatype="BYTES")
    entry.contents.bytes_contents.append(SECRET.encode())
    message.parameters[SECRET].string_param = SECRET
    message.outputs.add(name=SECRET)
    url = messages.ModelInferRequest(model_name="doggos", id=SECRET)
    url.inputs.add(name="url", shape=[1], datatype="BYTES").contents.bytes_contents.append(f"data:{SECRET}".encode())
    other = messages.ModelInferRequest(model_name=SECRET, model_version=SECRET)
    odd: list[tuple[tuple[str, str | bytes], ...]] = [(("x-request-id", f"{SECRET} x"),), (("authorization", SECRET),)]
    odd += [(("traceparent", trace),) for trace in ODD_TRACES[:2]] + [(("x-request-id", SECRET * 300),)]
    odd += [(("x-request-id-bin", SECRET.encode() + b"\xff"), ("grpc-trace-bin", SECRET.encode()), ("cookie", SECRET))]
    with grpc.insecure_channel(server.grpc) as channel:
        stub = services.GRPCInferenceServiceStub(channel)
        for metadata in odd:
            for each in (message, url, other):
                assert fails(stub.ModelInfer, each, metadata) in ("INVALID_ARGUMENT", "NOT_FOUND")
        load = messages.RepositoryModelLoadRequest(model_name=SECRET)
        for token, code in ((TOKEN, "NOT_FOUND"), (SECRET, "UNAUTHENTICATED")):
            assert fails(stub.RepositoryModelLoad, load, (("authorization", f"Bearer {token}"),)) == code
        assert fails(stub.ModelMetadata, messages.ModelMetadataRequest(name=SECRET, version=SECRET)) == "NOT_FOUND"
        health = health_pb2_grpc.HealthStub(channel)
        assert fails(health.Check, health_pb2.HealthCheckRequest(service=SECRET)) == "NOT_FOUND"
        for method in ("/inference.GRPCInferenceService/ModelInfer", f"/{SECRET}/{SECRET}"):
            fails(channel.unary_unary(method), b"\xff" + SECRET.encode())


def fails(method: Any, message: Any, metadata: Any = ()) -> str:
    with pytest.raises(grpc.RpcError) as error:
        method(message, metadata=metadata, timeout=60)
    return str(error.value.code().name)
