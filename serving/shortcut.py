"""Calls the handlers of inference requests without FastAPI's routing and injection, which cost more than they do."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Receive, Scope, Send

from serving.errors import ServiceError
from serving.responses import service_error_response


class Inference(NamedTuple):
    """A route, and its handler with what it reads from the path."""

    route: APIRoute
    handle: Any  # (request=Request) -> Response; raises no other errors of its own than ServiceErrors


class Shortcut:
    """ASGI middleware in front of the routes."""

    def __init__(self, app: ASGIApp, inferences: Mapping[str, Inference]) -> None:
        self._app, self._inferences = app, inferences

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = self._inferences.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if not found:
            await self._app(scope, receive, send)
            return
        scope["route"] = found.route  # whose path names the request's span
        try:
            response = await found.handle(request=Request(scope, receive, send))
        except ServiceError as error:
            response = service_error_response(error.without_frames())
        await response(scope, receive, send)


def find_inferences(routes: Sequence[BaseRoute], paths: Iterable[str]) -> dict[str, Inference]:
    """What takes a POST of each path; raises LookupError where nothing does."""
    return {path: _find_inference(routes, path) for path in paths}


def _find_inference(routes: Sequence[BaseRoute], path: str) -> Inference:
    scope: Scope = {"type": "http", "method": "POST", "path": path, "headers": []}
    for route in routes:
        match, child = route.matches(scope)
        if match is Match.FULL and isinstance(route, APIRoute):
            return Inference(route, partial(route.endpoint, **child["path_params"]))
    raise LookupError(path)
