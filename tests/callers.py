"""One question to a transformer or a predictor, over either protocol, and what came back."""

import base64
import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import grpc
import httpx
import numpy as np
from kserve.protocol.grpc import grpc_predict_v2_pb2 as messages
from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc as services
from prometheus_client.parser import text_string_to_metric_families

from launch import Server
from tests.stand_ins import SIZE, draw

INFER = "/v2/models/doggos/infer"
RED = draw("red")


def wait_until(condition: Callable[[], Any], what: str, timeout: float = 30) -> None:
    """Wait for something that must happen."""
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, f"{what}: not within {timeout} s"
        time.sleep(0.02)


def read_metrics(server: Server) -> dict[str, float]:
    """All samples, such as `doggos_requests_total{code=200,protocol=http}`."""
    text = httpx.get(f"http://{server.metrics}/metrics", timeout=30).text
    samples: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f"{key}={value}" for key, value in sorted(sample.labels.items()))
            samples[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return samples


def json_request(pictures: Sequence[bytes], **parameters: Any) -> dict[str, Any]:
    """A V2 body with pictures."""
    data = [base64.b64encode(picture).decode() for picture in pictures]
    tensor = {"name": "image", "shape": [len(data)], "datatype": "BYTES", "data": data}
    return {"inputs": [tensor], "parameters": parameters}


def grpc_request(pictures: Sequence[bytes]) -> Any:
    """A V2 message with pictures."""
    message = messages.ModelInferRequest(model_name="doggos")
    message.inputs.add(name="image", datatype="BYTES", shape=[len(pictures)])
    message.raw_input_contents.append(b"".join(len(data).to_bytes(4, "little") + data for data in pictures))
    return message


def pixels_request(pictures: int, shade: int = 100, size: int = SIZE) -> Any:
    """A V2 message with pixels, for a predictor."""
    message = messages.ModelInferRequest(model_name="doggos")
    message.inputs.add(name="pixels", datatype="UINT8", shape=[pictures, size, size, 3])
    message.raw_input_contents.append(np.full((pictures, size, size, 3), shade, np.uint8).tobytes())
    return message


def binary_body(message: Any) -> tuple[bytes, dict[str, str]]:
    """The same request as a body of REST's binary extension, with its headers."""
    (tensor,), (raw,) = message.inputs, message.raw_input_contents
    header = (
        f'{{"inputs":[{{"name":"{tensor.name}","datatype":"{tensor.datatype}","shape":{list(tensor.shape)},'
        f'"parameters":{{"binary_data_size":{len(raw)}}}}}]}}'
    ).encode()
    return header + raw, {"Inference-Header-Content-Length": str(len(header))}


@dataclass(frozen=True)
class Answer:
    code: int | str
    sentence: str
    retry_after: str | None
    seconds: float
    matches: list[str]


def ask_both(server: Server, picture: bytes = RED) -> list[Answer]:
    """The same question over REST and gRPC, at the same time."""
    with ThreadPoolExecutor(2) as callers:
        return [future.result() for future in [callers.submit(ask, server, picture) for ask in (ask_rest, ask_grpc)]]


def ask_rest(server: Server, picture: bytes = RED) -> Answer:
    return read_rest(httpx.post(f"http://{server.http}{INFER}", json=json_request([picture], k=1, n=2), timeout=60))


def read_rest(answer: httpx.Response) -> Answer:
    body, seconds = answer.json(), answer.elapsed.total_seconds()
    tensors = {tensor["name"]: tensor["data"] for tensor in body.get("outputs", ())}
    retry_after = answer.headers.get("retry-after")
    return Answer(answer.status_code, body.get("error", ""), retry_after, seconds, tensors.get("match_class", []))


def ask_grpc(server: Server, picture: bytes = RED, timeout: float = 60) -> Answer:
    begin = time.monotonic()
    with grpc.insecure_channel(server.grpc, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        try:
            services.GRPCInferenceServiceStub(channel).ModelInfer(grpc_request([picture]), timeout=timeout)
        except grpc.RpcError as error:
            trailing = dict(error.trailing_metadata() or ())
            sentence, retry_after = error.details(), trailing.get("retry-after")
            return Answer(error.code().name, sentence, retry_after, time.monotonic() - begin, [])
    return Answer("OK", "", None, time.monotonic() - begin, [])


def leave_rest(server: Server, line: bytes, body: bytes, content_type: str, missing: int = 0) -> socket.socket:
    """A caller that has sent a request, all of it or up to its last `missing` bytes, and can go away at any time."""
    address, port = server.http.split(":")
    caller = socket.create_connection((address, int(port)))
    length, kind = len(body) + missing, content_type.encode()
    head = b"%s\r\nHost: test\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n" % (line, kind, length)
    caller.sendall(head + body)
    return caller
