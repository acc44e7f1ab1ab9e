"""While a queue is full, a request is refused before its body is read, on every route."""

import asyncio
from collections.abc import AsyncIterator
from typing import cast

import httpx
import pytest
from kserve.protocol.grpc import grpc_predict_v2_pb2 as messages

from serving.call import Call
from serving.deadline import Deadline
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


async def never_come() -> AsyncIterator[bytes]:
    """A body that nobody must wait for."""
    await asyncio.Event().wait()
    yield b""


@pytest.mark.parametrize("route", ["/predict/", "/v1/models/doggos:predict", "/v2/models/doggos/infer"])
def test_a_body_is_not_even_read_over_rest(route: str, repository: Repository) -> None:
    routes = predict_routes(cast(TransformerModel, repository.model), 1000, 32, "")
    settings = ServerSettings()
    app = build_app(repository, TransformerMetrics(), settings, {}, TRACER, ByteBudget(10**6), routes)

    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here") as client:
            return await client.post(route, content=never_come(), headers={"content-type": "application/json"})

    answer = asyncio.run(asyncio.wait_for(ask(), 10))
    assert (answer.status_code, answer.json()) == (429, {"error": "more is asked than can be answered in time"})
    assert int(answer.headers["retry-after"]) > 0


def test_nor_over_grpc(repository: Repository) -> None:
    service = InferenceService(repository, TransformerMetrics(), 10, TRACER)
    message = messages.ModelInferRequest(model_name="doggos")  # it has no input
    answer = asyncio.run(service._answer(message, Call(Deadline.after(10))))
    assert isinstance(answer, QueueFull)
