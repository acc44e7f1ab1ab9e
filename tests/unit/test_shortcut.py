"""The short way to the handlers of inference requests."""

import asyncio
from typing import Any

import pytest
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Scope

from serving.errors import InvalidRequest
from serving.shortcut import Shortcut, find_inferences

PATH, TEMPLATE = "/v1/models/a:b ü{x}:predict", "/v1/models/{model_name}:predict"


async def predict(model_name: str, request: Request) -> Response:
    body = await request.body()
    if not body:
        raise InvalidRequest("no body")
    return Response(model_name.encode() + b" " + body)


def ask(path: str, body: bytes = b"pixels", method: str = "POST") -> tuple[Scope, list[Message]]:
    router, sent = APIRouter(), list[Message]()
    router.add_api_route(TEMPLATE, predict, methods=["POST"])
    scope: Scope = {"type": "http", "method": method, "path": path, "headers": []}

    async def the_long_way(scope: Scope, receive: Any, send: Any) -> None:
        await send({"type": "the long way"})

    async def receive() -> Message:
        return {"type": "http.request", "body": body}

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(Shortcut(the_long_way, find_inferences(router.routes, [PATH]))(scope, receive, send))
    return scope, sent


def test_a_handler_is_called_as_its_route_says() -> None:
    scope, (start, body) = ask(PATH)
    assert start["status"] == 200 and body["body"] == "a:b ü{x} pixels".encode()
    assert scope["route"].path == TEMPLATE


def test_a_refusal_is_answered() -> None:
    _, (start, body) = ask(PATH, b"")
    assert start["status"] == 400 and b"no body" in body["body"]


@pytest.mark.parametrize(("path", "method"), [(PATH, "GET"), (f"{PATH}/", "POST"), ("/v1/models/c:predict", "POST")])
def test_everything_else_goes_the_long_way(path: str, method: str) -> None:
    assert ask(path, method=method)[1] == [{"type": "the long way"}]


def test_a_path_that_nothing_takes_is_found_at_the_start() -> None:
    with pytest.raises(LookupError):
        find_inferences(APIRouter().routes, [PATH])
