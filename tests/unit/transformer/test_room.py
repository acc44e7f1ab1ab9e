"""While a queue is full, a request is refused before its body is parsed, on every route."""

import asyncio
from typing import Any, cast

import httpx
import pytest
from kserve.protocol.grpc import grpc_predict_v2_pb2 as messages
from starlette.types import Message

from serving.call import Call
from serving.deadline import Deadline
from serving.door import MOST_BYTES, Door
from serving.errors import QueueFull
from serving.grpc_service import InferenceService
from serving.held import ByteBudget
from serving.metrics import TransformerMetrics
from serving.model import State
from serving.repository import Repository
from serving.rest import build_app
from serving.server_settings import ServerSettings
from serving.tracing import open_tracer
from transformer.pipeline import Pipeline
from transformer.routes import predict_routes
from transformer.server import TransformerModel

MALFORMED = b"{"
TRACER = open_tracer("test", {})


class Full:
    """A pipeline whose door is shut."""

    def check_room(self) -> None:
        raise QueueFull("more is asked than can be answered in time")


async def load() -> None:
    """Nothing: the model serves already."""


async def close() -> None:
    """Nothing is open."""


@pytest.fixture
def repository() -> Repository:
    model = TransformerModel("doggos", 32)
    model.take(cast(Pipeline, Full()), 4, close)
    model.state = State.SERVING
    return Repository(model, load, "")


@pytest.mark.parametrize("route", ["/predict/", "/v1/models/doggos:predict", "/v2/models/doggos/infer"])
@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (MALFORMED, {"content-encoding": "gzip"}),  # the routes would say 415
        (MALFORMED * (MOST_BYTES + 1), {}),
    ],
    ids=["at the door", "by the routes"],
)
def test_a_malformed_body_is_not_even_seen_over_rest(
    body: bytes, headers: dict[str, str], route: str, repository: Repository
) -> None:
    routes = predict_routes(cast(TransformerModel, repository.model), 10**6, 32, "")
    settings = ServerSettings()
    app = build_app(repository, TransformerMetrics(), settings, {}, TRACER, ByteBudget(10**6), routes)

    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here") as client:
            return await client.post(route, content=body, headers={"content-type": "application/json", **headers})

    answer = asyncio.run(ask())
    assert (answer.status_code, answer.json()) == (429, {"error": "more is asked than can be answered in time"})
    assert int(answer.headers["retry-after"]) > 0


def test_a_body_that_does_not_come_is_waited_for_as_long_as_a_request_may_take(repository: Repository) -> None:
    sent: list[Message] = []

    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    async def send(message: Message) -> None:
        sent.append(message)

    headers, state = [(b"content-length", b"2")], {"call": Call(Deadline.after(0.01))}
    scope = {"type": "http", "method": "POST", "path": "/predict/", "headers": headers, "state": state}
    asyncio.run(asyncio.wait_for(Door(never, repository.model)(scope, receive, send), 10))
    assert sent[0]["status"] == 429


async def never(*_: Any) -> None:
    raise AssertionError("the routes were asked")


def ask_door(repository: Repository, method: str, path: str, length: str) -> list[Message]:
    """What the door sends; the body comes in two parts, of which it must have taken both."""
    parts: list[Message] = [{"type": "http.request", "body": b"{", "more_body": more} for more in (True, False)]
    sent: list[Message] = []

    async def receive() -> Message:
        return parts.pop(0)

    async def send(message: Message) -> None:
        assert not parts, "answered in the middle of the body"
        sent.append(message)

    headers = [(b"content-length", length.encode())] if length else []
    state = {"call": Call(Deadline.after(10))}
    scope = {"type": "http", "method": method, "path": path, "headers": headers, "state": state}
    asyncio.run(Door(never, repository.model)(scope, receive, send))
    return sent


@pytest.mark.parametrize("path", ["/predict", "/predict/", "/v1/models/doggos:predict", "/v2/models/doggos/infer"])
def test_a_small_request_is_refused_without_the_routes(path: str, repository: Repository) -> None:
    start, *_ = ask_door(repository, "POST", path, "2")
    assert start["status"] == 429


@pytest.mark.parametrize(
    ("method", "path", "length"),
    [
        ("GET", "/predict/", ""),  # 405
        ("POST", "/v2/models/other/infer", "2"),  # 404
        ("POST", "/page/preview", "2"),  # asks no predictor
        ("POST", "/v2/repository/index", "2"),
        ("POST", "/predict/", str(MOST_BYTES + 1)),  # may be too large
        ("POST", "/predict/", ""),
    ],
)
def test_all_else_is_for_the_routes(method: str, path: str, length: str, repository: Repository) -> None:
    with pytest.raises(AssertionError, match="the routes were asked"):
        ask_door(repository, method, path, length)


def test_what_is_not_loaded_is_for_the_routes_to_say() -> None:
    with pytest.raises(AssertionError, match="the routes were asked"):
        ask_door(Repository(TransformerModel("doggos", 32), load, ""), "POST", "/predict/", "2")


def test_nor_over_grpc(repository: Repository) -> None:
    service = InferenceService(repository, TransformerMetrics(), 10, TRACER)
    message = messages.ModelInferRequest(model_name="doggos")  # it has no input
    answer = asyncio.run(service._answer(message, Call(Deadline.after(10))))
    assert isinstance(answer, QueueFull)
