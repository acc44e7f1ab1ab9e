"""One trace through caller, transformer and predictor over both protocols, received as a collector receives it."""

import io
import json
import socket
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from kserve.protocol.grpc import grpc_predict_v2_pb2 as messages
from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc as services
from PIL import Image

from launch import Server, running
from serving.tracing import is_wanted
from tests.callers import INFER, binary_body, json_request, pixels_request
from tests.collector import Collector, Seen, run_collector
from tests.picture_host import PictureHost, run_picture_host
from tests.programs import free_port
from tests.stand_ins import SIZE, draw, running_stand_in, write_index

SECRET = "s3cr3t"
CALLER = "00f067aa0ba902b7"  # the caller's own span
STAGES = {"fetch": "CLIENT", "decode": "INTERNAL", "predict": "CLIENT", "search": "INTERNAL"}
TRANSFORMER, PREDICTOR = "dogs", "doggos-predictor"
NAMES = {"rest": "POST /predict/", "v2": "POST /v2/models/{model_name}/infer", "grpc": "ModelInfer"}


def headers(trace: str, flags: str = "01") -> dict[str, str]:
    return {"traceparent": f"00-{trace}-{CALLER}-{flags}", "tracestate": "vendor=value"}


@dataclass(frozen=True)
class Told:
    """The trace of each request that was made, and the spans that the servers sent before they ended."""

    traces: Mapping[str, str]
    collector: Collector
    transformer: Server

    def spans(self, about: str) -> list[Seen]:
        return self.collector.of(self.traces[about])

    def one(self, about: str, service: str, name: str) -> Seen:
        (found,) = [span for span in self.spans(about) if (span.service, span.name) == (service, name)]
        return found


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    """All requests first; the spans come when the servers stop, as a batch waits for a minute."""
    folder = tmp_path_factory.mktemp("traces")
    about = ("rest", "v2", "grpc", "unsampled", "several", "host", "engine", "nowhere", "direct")
    traces = {name: uuid.uuid4().hex for name in about}
    pictures = {f"/red.png?token={SECRET}": draw("red"), "/black.png": black()}
    with run_collector() as collector, run_picture_host(pictures) as host:
        environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "60000"}
        flags = ["--fail_on_black", "on"]
        with running("tests.pretender", flags, folder / "predictor.log", environ=environ) as predictor:
            flags = ["--predictor_host", predictor.http, "--index_dir", str(write_index(folder / "index"))]
            flags += ["--allow_networks", "127.0.0.1/32"]
            named = {**environ, "OTEL_SERVICE_NAME": TRANSFORMER}
            with running("transformer", flags, folder / "transformer.log", environ=named) as transformer:
                ask(transformer, predictor, host, traces)
                assert not collector.spans
        yield Told(traces, collector, transformer)


def black() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (SIZE, SIZE)).save(buffer, "PNG")
    return buffer.getvalue()


def ask(transformer: Server, predictor: Server, host: PictureHost, traces: Mapping[str, str]) -> None:
    red, lost = host.url("/red.png") + f"?token={SECRET}", host.url("/lost.png") + f"?token={SECRET}"

    def post(about: str, path: str, body: Any, flags: str = "01") -> int:
        url = f"http://{transformer.http}{path}"
        return httpx.post(url, json=body, headers=headers(traces[about], flags), timeout=60).status_code

    assert post("rest", "/predict/", {"url": red}) == 200
    assert post("v2", INFER, urls(red)) == 200
    assert post("unsampled", "/predict/", {"url": red}, "00") == 200
    assert post("several", INFER, json_request([draw("red"), draw("blue")])) == 200
    assert post("host", "/predict/", {"url": lost}) == 424
    assert post("engine", "/predict/", {"url": host.url("/black.png")}) == 503
    assert post("nowhere", f"/{SECRET}/is/no/route", {}) == 404
    message = messages.ModelInferRequest(model_name="doggos")
    message.inputs.add(name="url", datatype="BYTES", shape=[1]).contents.bytes_contents.append(red.encode())
    with grpc.insecure_channel(transformer.grpc) as channel:
        metadata = tuple(headers(traces["grpc"]).items())
        services.GRPCInferenceServiceStub(channel).ModelInfer(message, timeout=60, metadata=metadata)
    with grpc.insecure_channel(predictor.grpc) as channel:
        metadata = tuple(headers(traces["direct"]).items())
        services.GRPCInferenceServiceStub(channel).ModelInfer(pixels_request(1), timeout=60, metadata=metadata)


def urls(url: str) -> dict[str, Any]:
    return {"inputs": [{"name": "url", "shape": [1], "datatype": "BYTES", "data": [url]}]}


@pytest.mark.parametrize("about", NAMES)
def test_one_trace_from_the_caller_to_the_engine(told: Told, about: str) -> None:
    ours, theirs = told.one(about, TRANSFORMER, NAMES[about]), told.one(about, PREDICTOR, NAMES["v2"])
    predict = told.one(about, TRANSFORMER, "predict")
    assert (ours.parent, ours.kind) == (CALLER, "SERVER")
    assert (theirs.parent, theirs.kind) == (predict.id, "SERVER")
    stages = {name: told.one(about, TRANSFORMER, name) for name in STAGES}
    engine = {name: told.one(about, PREDICTOR, name) for name in ("queue", "forward")}
    assert {name: (span.parent, span.kind) for name, span in stages.items()} == {
        name: (ours.id, kind) for name, kind in STAGES.items()
    }
    assert all((span.parent, span.kind) == (theirs.id, "INTERNAL") for span in engine.values())
    assert len(told.spans(about)) == 2 + len(stages) + len(engine)
    assert not any(span.failed for span in told.spans(about))
    in_order = [*[stages[name] for name in STAGES], ours]
    assert [span.begin for span in in_order[:-1]] == sorted(span.begin for span in in_order[:-1])
    assert all(ours.begin <= span.begin <= span.end <= ours.end for span in in_order)
    assert engine["queue"].end <= engine["forward"].begin < engine["forward"].end
    code = {"rpc.grpc.status_code": 0} if about == "grpc" else {"http.response.status_code": 200}
    assert code.items() <= ours.attributes.items()


def test_a_predictor_that_is_called_over_grpc_joins_the_trace(told: Told) -> None:
    span = told.one("direct", PREDICTOR, "ModelInfer")
    assert (span.parent, span.kind) == (CALLER, "SERVER")
    assert {stage.name for stage in told.spans("direct") if stage.parent == span.id} == {"queue", "forward"}


def test_every_picture_has_a_span_of_its_own(told: Told) -> None:
    decodes = [span for span in told.spans("several") if span.name == "decode"]
    assert len(decodes) == 2
    assert {span.parent for span in decodes} == {told.one("several", TRANSFORMER, NAMES["v2"]).id}


def test_failures_say_what_a_caller_may_know(told: Told) -> None:
    fetch, request = told.one("host", TRANSFORMER, "fetch"), told.one("host", TRANSFORMER, NAMES["rest"])
    assert (fetch.failed, fetch.sentence) == (True, "the picture's host answered 404")
    assert fetch.attributes["error.type"] == "FetchFailed"
    assert (request.failed, request.attributes["http.response.status_code"]) == (False, 424), "not our fault"
    engines = [span for span in told.spans("engine") if (span.service, span.name) == (PREDICTOR, NAMES["v2"])]
    assert len(engines) > 1, "every attempt"
    assert all(span.failed and span.attributes["http.response.status_code"] == 500 for span in engines)
    assert {span.parent for span in engines} == {told.one("engine", TRANSFORMER, "predict").id}
    assert told.one("engine", TRANSFORMER, NAMES["rest"]).failed
    assert told.one("nowhere", TRANSFORMER, "POST").attributes["http.response.status_code"] == 404


def test_nothing_secret_and_no_stack_trace_is_sent(told: Told) -> None:
    sent = b"".join(told.collector.raw)
    for text in (SECRET, "token", "127.0.0.1", "Traceback", ".py", "does not like black"):
        assert text.encode() not in sent, text
    assert not any(span.events for span in told.collector.spans)


def test_a_trace_that_the_caller_does_not_sample_is_not_sent(told: Told) -> None:
    assert told.spans("unsampled") == []


def test_a_log_line_names_the_span(told: Told) -> None:
    lines = [json.loads(line) for line in told.transformer.log.read_text().splitlines()]
    span = told.one("rest", TRANSFORMER, NAMES["rest"])
    assert f"00-{span.trace}-{span.id}-01" in [line.get("traceparent") for line in lines]


def test_off_is_not_even_imported_and_headers_pass_unchanged(tmp_path: Path) -> None:
    for package in ("sdk", "exporter"):  # FastAPI imports the API, which is small, by itself
        (tmp_path / "opentelemetry" / package).mkdir(parents=True)
        (tmp_path / "opentelemetry" / package / "__init__.py").write_text(
            'raise ImportError("it must not be imported")'
        )
    given = headers(uuid.uuid4().hex)
    with running_stand_in() as stand_in:
        flags = ["--predictor_host", stand_in.target, "--index_dir", str(write_index(tmp_path / "index"))]
        off = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_SDK_DISABLED": "true"}
        environ = {**off, "PYTHONPATH": str(tmp_path)}
        with running("transformer", flags, tmp_path / "log", environ=environ) as server:
            body = json_request([draw("red")])
            assert httpx.post(f"http://{server.http}{INFER}", json=body, headers=given, timeout=60).status_code == 200
        assert given.items() <= stand_in.received[-1].items()


@pytest.fixture(params=["refuses", "hangs"])
def useless(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of a collector that is not there, or that never answers."""
    if request.param == "refuses":
        yield f"http://user:{SECRET}@127.0.0.1:{free_port()}"
    else:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            yield f"http://user:{SECRET}@127.0.0.1:{listener.getsockname()[1]}"


def test_a_collector_that_is_away_costs_log_lines_only(useless: str, tmp_path: Path) -> None:
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": useless, "OTEL_BSP_SCHEDULE_DELAY": "100"}
    body, length = binary_body(pixels_request(1))
    with running("tests.pretender", [], tmp_path / "log", environ=environ) as server:
        for _ in range(5):
            answer = httpx.post(f"http://{server.http}{INFER}", content=body, headers=length, timeout=60)
            assert answer.status_code == 200
        assert server.stop(timeout=20) == 0
    lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    assert any(line["level"] != "info" for line in lines)
    assert SECRET not in server.log.read_text()


@pytest.mark.parametrize(
    ("environ", "wanted"),
    [
        ({}, False),
        ({"OTEL_SERVICE_NAME": "dogs"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": " "}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318/v1/traces"}, True),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),  # to localhost:4318, as everywhere
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_TRACES_EXPORTER": "none"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_TRACES_EXPORTER": "zipkin"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_SDK_DISABLED": "TRUE"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, True),
    ],
)
def test_what_turns_traces_on(environ: dict[str, str], wanted: bool) -> None:
    assert is_wanted(environ) is wanted
