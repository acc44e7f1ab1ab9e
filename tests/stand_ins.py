"""A small predictor for tests, which tells a picture by its colour and misbehaves as it is told, in their process."""

import asyncio
import contextlib
import io
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import grpc
import numpy as np
import orjson
from aiohttp import web
from PIL import Image

import contract
from contract import CONTRACT_VERSION, RESIZE_BICUBIC, ClipMark, Pixels, Prediction, PredictorInfo
from embeddings import write_embeddings_part
from serving import rest_codec
from serving.call import TIMEOUT_MS
from serving.grpc_codec import decode_request, encode_response
from serving.stubs import load_messages
from serving.v2 import InferRequest, InferResponse, Tensor
from transformer.target import REST

SIZE = 64  # 32 pictures are more than the 256 KiB that gRPC itself would send again
COLOURS = {"blue": (0, 0, 200), "green": (0, 200, 0), "red": (200, 0, 0), "white": (200, 200, 200)}
CLASSES = tuple(COLOURS)  # sorted, as labels are
MARK = ClipMark("0123456789abcdef", "stand-in", 4, False)
INFO = PredictorInfo(MARK.fingerprint, CONTRACT_VERSION, RESIZE_BICUBIC)

Result = TypeVar("Result")


def draw(colour: str, size: int = SIZE) -> bytes:
    """A picture of one colour, as PNG."""
    buffer = io.BytesIO()
    Image.new("RGB", (size, size), COLOURS[colour]).save(buffer, "PNG")
    return buffer.getvalue()


def classify(pixels: Pixels, classes: Sequence[str] = CLASSES, info: PredictorInfo = INFO) -> Prediction:
    """The most probable class is the picture's colour; the embedding is the colour and a one."""
    colour = pixels.reshape(len(pixels), -1, 3).mean(axis=1) / 200  # [N, 3]
    embedding = np.concatenate([colour, np.ones((len(colour), 1))], axis=1).astype(np.float32)  # [N, 4]
    if not classes:
        return Prediction(embedding, None, (), info)
    known = np.array([COLOURS.get(name, (90, 90, 90)) for name in classes]) / 200  # [C, 3]
    distance = ((colour[:, None] - known) ** 2).sum(axis=2)  # [N, C]
    weights = np.exp(-5 * distance)
    probabilities = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return Prediction(embedding, probabilities, tuple(classes), info)


def write_index(
    folder: Path, classes: Sequence[str] = CLASSES, mark: ClipMark = MARK, rows: int = 3, dim: int | None = None
) -> Path:
    """`rows` pictures of each class, whose embeddings are those of `classify`."""
    folder.mkdir(parents=True, exist_ok=True)
    labels = [name for name in classes for _ in range(rows)]
    paths = [f"{name}/{row}.png" for name in classes for row in range(rows)]
    pixels = np.array([[[COLOURS.get(name, (90, 90, 90))]] for name in labels], np.uint8)  # [N, 1, 1, 3]
    embedding = classify(pixels).embedding
    if dim is not None:
        embedding, mark = np.ones((len(labels), dim), np.float32), replace(mark, dim=dim)
    write_embeddings_part(folder / "part-00000.parquet", paths, labels, embedding, mark)
    return folder


@dataclass
class Behaviour:
    """How a stand-in answers."""

    delay: float = 0.0  # seconds
    hold: Path | None = None  # a file; no answer comes while it is there
    error: tuple[grpc.StatusCode, str, Mapping[str, str]] | None = None
    info: PredictorInfo = INFO
    classes: Sequence[str] = CLASSES
    change: Callable[[Any], None] = lambda message: None  # of the ModelInferResponse


STATUSES = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.INTERNAL: 500,
    grpc.StatusCode.UNAVAILABLE: 503,
}


@dataclass
class StandIn:
    """A predictor on loopback, in a thread, over REST and gRPC alike; `host` may be any of 127.0.0.0/8."""

    port: int = 0
    grpc_port: int = 0
    host: str = "127.0.0.1"
    behaviour: Behaviour = field(default_factory=Behaviour)
    received: list[dict[str, str]] = field(default_factory=list)  # metadata of every call
    time_left: list[float] = field(default_factory=list)  # of every call's deadline
    running: int = 0
    cancelled: int = 0

    def __post_init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self._grpc: Any = None
        self._rest: Any = None

    @property
    def target(self) -> str:
        """--predictor_host, for the protocol that is the default."""
        return f"{self.host}:{self.port}"

    def flags(self, protocol: str = REST) -> list[str]:
        """Of a transformer in front of it."""
        target = self.target if protocol == REST else f"{self.host}:{self.grpc_port}"
        return ["--predictor_host", target, "--predictor_protocol", protocol]

    def start(self) -> "StandIn":
        """Listen, on the same ports as before."""
        self._run(self._start())
        return self

    def stop(self) -> None:
        """Close the ports and the connections."""
        self._run(self._stop())

    def close(self) -> None:
        """Stop for good."""
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)

    def behave(self, **changes: Any) -> None:
        """Answer like this from now on."""
        self.behaviour = Behaviour(**changes)

    def _run(self, work: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _start(self) -> None:
        await self._start_grpc()
        app = web.Application(client_max_size=2**26)
        app.router.add_post("/v2/models/{name}/infer", self._infer_rest)
        app.router.add_get("/v2/models/{name}", self._describe_rest)
        self._rest = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0)
        await self._rest.setup()
        await web.TCPSite(self._rest, self.host, self.port).start()
        self.port = self._rest.addresses[0][1]

    async def _start_grpc(self) -> None:
        options = [("grpc.so_reuseport", 0), ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000)]
        self._grpc = grpc.aio.server(options=options)
        messages = load_messages()
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(method, request.FromString, answer.SerializeToString)
            for name, method, request, answer in (
                ("ModelInfer", self._infer_grpc, messages.ModelInferRequest, messages.ModelInferResponse),
                ("ModelMetadata", self._describe_grpc, messages.ModelMetadataRequest, messages.ModelMetadataResponse),
            )
        }
        service = grpc.method_handlers_generic_handler("inference.GRPCInferenceService", handlers)
        self._grpc.add_generic_rpc_handlers((service,))
        self.grpc_port = self._grpc.add_insecure_port(f"{self.host}:{self.grpc_port}")
        await self._grpc.start()

    async def _stop(self) -> None:
        await self._grpc.stop(None)
        await self._rest.cleanup()

    async def _describe_grpc(self, request: Any, context: Any) -> Any:
        answer = load_messages().ModelMetadataResponse(name=request.name)
        answer.inputs.add(name=contract.PIXELS, datatype="UINT8", shape=[-1, SIZE, SIZE, 3])
        return answer

    async def _describe_rest(self, request: web.Request) -> web.Response:
        pixels = {"name": contract.PIXELS, "datatype": "UINT8", "shape": [-1, SIZE, SIZE, 3]}
        return web.json_response({"name": request.match_info["name"], "inputs": [pixels]})

    async def _infer_grpc(self, message: Any, context: Any) -> Any:
        metadata = {key: value for key, value in context.invocation_metadata() if isinstance(value, str)}
        behaviour = await self._behave(metadata, context.time_remaining())
        if behaviour.error:
            code, details, trailing = behaviour.error
            await context.abort(code, details, tuple(trailing.items()))
        return encode_prediction(decode_request(message), behaviour)

    async def _infer_rest(self, request: web.Request) -> web.Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        behaviour = await self._behave(headers, int(headers[TIMEOUT_MS]) / 1000)
        if behaviour.error:
            return _refuse_rest(request, *behaviour.error)
        decoded, binary = rest_codec.decode_request(await request.read(), headers.get(rest_codec.HEADER_LENGTH))
        assert binary.all
        return _answer_rest(encode_prediction(decoded, behaviour))

    async def _behave(self, metadata: dict[str, str], time_left: float) -> Behaviour:
        """What to answer, after the time that it takes."""
        self.received.append(metadata)
        self.time_left.append(time_left)
        behaviour = self.behaviour
        self.running += 1
        try:
            await asyncio.sleep(behaviour.delay)
            while behaviour.hold and behaviour.hold.exists():  # noqa: ASYNC110  # a file says nothing when it goes
                await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1
        return behaviour


def _refuse_rest(request: web.Request, code: grpc.StatusCode, details: str, headers: Mapping[str, str]) -> web.Response:
    if code == grpc.StatusCode.CANCELLED:  # a server that is just stopping
        assert request.transport
        request.transport.close()
    if code == grpc.StatusCode.RESOURCE_EXHAUSTED:
        return web.json_response({"error": details}, status=429 if headers else 413, headers=headers)
    if code == grpc.StatusCode.UNAVAILABLE and not headers:  # a proxy that reaches nobody
        return web.Response(text=details, status=503)
    return web.json_response({"error": details}, status=STATUSES.get(code, 500), headers=headers)


def _answer_rest(message: Any) -> web.Response:
    """The ModelInferResponse as it is, right or wrong, with binary tensors where it has raw ones."""
    blobs = list(message.raw_output_contents)
    outputs: list[dict[str, Any]] = [
        {"name": output.name, "datatype": output.datatype, "shape": list(output.shape)} for output in message.outputs
    ]
    for output, blob in zip(outputs, blobs, strict=False):
        output["parameters"] = {"binary_data_size": len(blob)}
    parameters = {name: value.string_param for name, value in message.parameters.items()}
    head = orjson.dumps(
        {"model_name": message.model_name, "id": message.id, "parameters": parameters, "outputs": outputs}
    )
    headers = {rest_codec.HEADER_LENGTH: str(len(head))} if blobs else {}
    return web.Response(body=head + b"".join(blobs), headers=headers)


def encode_prediction(request: InferRequest, behaviour: Behaviour) -> Any:
    """The ModelInferResponse to a request with pixels."""
    prediction = classify(request.inputs[contract.PIXELS].array, behaviour.classes, behaviour.info)
    outputs = [Tensor(contract.EMBEDDING, "FP32", prediction.embedding)]
    if prediction.probabilities is not None:
        outputs.append(Tensor(contract.PROBABILITIES, "FP32", prediction.probabilities))
        outputs.append(Tensor.of_strings(contract.CLASSES, prediction.classes, [len(prediction.classes)]))
    answer = encode_response("doggos", request, InferResponse(outputs, prediction.info.to_parameters()), raw=True)
    behaviour.change(answer)
    return answer


@contextlib.contextmanager
def running_stand_in(**fields: Any) -> Iterator[StandIn]:
    """A stand-in for the time of the block."""
    stand_in = StandIn(**fields).start()
    try:
        yield stand_in
    finally:
        stand_in.close()
