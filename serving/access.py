"""The outermost layer of HTTP: request id, one log line, metrics, and no exception that gets past it."""

import asyncio
import time
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.call import REQUEST_ID, Call
from serving.errors import NotReady
from serving.held import ByteBudget
from serving.logs import log, log_exception
from serving.metrics import Metrics
from serving.responses import error_response, service_error_response
from serving.tracing import Tracer

MAX_PATH = 200
"""Most characters of a path in a log line."""


class AccessLayer:
    """ASGI middleware; routes find their `Call` in `request.state.call`, and in `share` what it holds of `held`."""

    def __init__(self, app: ASGIApp, metrics: Metrics, budget: float, tracer: Tracer, held: ByteBudget) -> None:
        self._app, self._metrics, self._budget, self._tracer, self._held = app, metrics, budget, tracer, held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        call = Call.from_headers(Headers(scope=scope), self._budget)
        if scope["method"] == "HEAD":  # uvicorn leaves the body of the answer out
            scope = {**scope, "method": "GET"}
        # A load takes seconds and is no work that more replicas would share.
        if scope["method"] == "GET" or scope["path"].startswith("/v2/repository/"):
            await self._answer(scope, receive, send, call)
            return
        call = self._tracer.begin(call, "http")
        with self._metrics.in_flight.track():
            begin = time.perf_counter()
            code = await self._answer(scope, receive, send, call)
        seconds = time.perf_counter() - begin
        self._metrics.count("http", code, call.stages, seconds)
        call.span.end(f"{scope['method']} {_route(scope)}".strip(), code)
        log_call(call, "http", scope["path"], code, seconds)

    async def _answer(self, scope: Scope, receive: Receive, send: Send, call: Call) -> int:
        code = 0

        async def send_with_id(message: Message) -> None:
            nonlocal code
            if message["type"] == "http.response.start":
                code = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID] = call.request_id
            await send(message)

        share = self._held.open()
        scope.setdefault("state", {}).update(call=call, share=share)
        try:
            with share:
                await self._app(scope, receive, send_with_id)
        except Exception as error:
            log_exception("unexpected error", error, request_id=call.request_id)
            if code == 0:
                await error_response(500, "internal error")(scope, receive, send_with_id)
        except asyncio.CancelledError:  # the server stops, and its grace is over
            if code == 0:
                await service_error_response(NotReady("the server is stopping"))(scope, receive, send_with_id)
        return code


def _route(scope: Scope) -> str:
    """The path as its route declares it, "" when there is none: what callers make up is no name for a span."""
    return str(getattr(scope.get("route"), "path", ""))


def log_call(call: Call, protocol: str, path: str, code: int | str, seconds: float) -> None:
    """One line for a request that has ended; never its query, its body or its address."""
    fields: dict[str, Any] = {
        "request_id": call.request_id,
        "protocol": protocol,
        "path": path[:MAX_PATH],
        "code": code,
        "milliseconds": round(seconds * 1000, 2),
        "stages": {name: round(value * 1000, 2) for name, value in call.stages.items()},
    }
    if "traceparent" in call.trace:
        fields["traceparent"] = call.trace["traceparent"]
    log("request", **fields)
