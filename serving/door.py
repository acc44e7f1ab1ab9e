"""Refuses inference requests while a queue is full, without the routes: where most is refused, it must cost little."""

import asyncio
from contextlib import suppress
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from serving.body import read_length
from serving.errors import NotReady, QueueFull
from serving.model import V2Model
from serving.responses import service_error_response

MOST_BYTES = 64 * 1024
"""Of a body that is read to its end and thrown away. Larger ones, and those of unknown length, are for the routes."""


class Door:
    """ASGI middleware, inside the access layer."""

    def __init__(self, app: ASGIApp, model: V2Model[Any]) -> None:
        self._app, self._model, self._paths = app, model, model.inference_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._is_guarded(scope):
            try:
                self._model.check_room()
            except QueueFull as error:
                await _read_to_end(receive, scope["state"]["call"].deadline.remaining())
                await service_error_response(error)(scope, receive, send)
                return
            except NotReady:  # is for the routes to say
                pass
        await self._app(scope, receive, send)

    def _is_guarded(self, scope: Scope) -> bool:
        """Whether it asks the model, in so few bytes that they are here already."""
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] not in self._paths:
            return False
        return 0 <= read_length(Headers(scope=scope)) <= MOST_BYTES


async def _read_to_end(receive: Receive, seconds: float) -> None:
    """A connection that is closed before its caller has sent all may be reset, and the answer lost."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while (message := await receive())["type"] == "http.request" and message.get("more_body"):
                pass
