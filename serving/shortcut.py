"""Calls the handlers of inference requests without FastAPI's routing and injection, which cost more than they do."""

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Receive, Scope, Send

from serving.errors import ServiceError
from serving.model import V2Model
from serving.responses import service_error_response


class Shortcut:
    """ASGI middleware in front of `routes`; the model's inference routes are found once."""

    def __init__(self, app: ASGIApp, routes: Sequence[BaseRoute], model: V2Model[Any]) -> None:
        self._app = app
        self._found = {path: _find_route(routes, path) for path in model.inference_paths}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] not in self._found:
            await self._app(scope, receive, send)
            return
        route, parameters = self._found[scope["path"]]
        scope["route"] = route
        try:
            response = await route.endpoint(request=Request(scope, receive, send), **parameters)
        except ServiceError as error:
            response = service_error_response(error.without_frames())
        await response(scope, receive, send)


def _find_route(routes: Sequence[BaseRoute], path: str) -> tuple[APIRoute, Mapping[str, Any]]:
    """The one that takes a POST of `path`, and what it reads from it."""
    scope: Scope = {"type": "http", "method": "POST", "path": path, "headers": []}
    for route in routes:
        match, child = route.matches(scope)
        if match is Match.FULL and isinstance(route, APIRoute):
            return route, child["path_params"]
    raise LookupError(path)
