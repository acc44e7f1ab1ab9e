"""gRPC messages are received a few at a time, and those of infer count as held until they are answered."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

from grpc import RpcMethodHandler, StatusCode
from grpc.aio import EOF, ServerInterceptor, ServicerContext

from serving.errors import BodyTooSlow, InvalidRequest, QueueFull, ServiceError
from serving.held import ByteBudget, Share
from serving.stubs import method_path

MAX_CALLS = 1000
"""Calls that receive or wait for their turn, each with what fits into HTTP/2's window."""
KEPT_SECONDS = 2.0
"""For which a place is kept although others wait."""
OTHER_PLACES, OTHER_SECONDS, OTHER_KEPT_SECONDS = 8, 2.0, 0.05
"""For all methods but infer: their messages are small and there at once, but a caller may say otherwise."""
STREAM_PLACES, STREAM_SECONDS = 8, 60.0
"""For reflection, whose callers may keep their stream open between questions."""

_BEGAN: ContextVar[float] = ContextVar("began")


def seconds_receiving() -> float:
    """How long this task's message, with the wait for its turn, took to come."""
    now = time.monotonic()
    return now - _BEGAN.get(now)


class Turns:
    """A few places, which are had for some seconds in all, and for fewer while others wait."""

    def __init__(self, places: int, seconds: float, kept: float) -> None:
        self._places, self._seconds, self._kept, self._calls = asyncio.Semaphore(places), seconds, kept, 0
        self._kept_until: dict[asyncio.Timeout, float] = {}  # of those that have a place

    @asynccontextmanager
    async def take(self) -> AsyncIterator[None]:
        """A place for the time of the block; raises QueueFull, or BodyTooSlow when the time for both is over."""
        if self._calls >= MAX_CALLS:
            raise QueueFull("too many messages are being received")
        self._calls += 1
        try:
            async with asyncio.timeout(self._seconds) as limit:
                self._hurry()
                async with self._places:
                    self._kept_until[limit] = asyncio.get_running_loop().time() + self._kept
                    self._hurry()
                    yield
        except TimeoutError:
            raise BodyTooSlow("the message did not arrive in the time that a request may take") from None
        finally:
            self._calls -= 1
            self._kept_until.pop(limit, None)

    def _hurry(self) -> None:
        """Have all places given up in time for those that wait: few callers who send nothing must not keep all out."""
        if self._calls == len(self._kept_until) or not self._places.locked():
            return
        for limit, until in self._kept_until.items():
            if not limit.expired() and (limit.when() or until) > until:
                limit.reschedule(until)


class ReceiveInTurn(ServerInterceptor):  # type: ignore[misc]
    """Reads a call's message when its turn comes.

    Of a method that takes one message, gRPC has all of it in memory before it asks us, of however many callers and for
    as long as they take. So ours take a stream of messages, which is the same on the wire, and read one.
    """

    def __init__(self, held: ByteBudget, places: int, seconds: float) -> None:
        self._held = held
        self._infer = Turns(places, seconds, KEPT_SECONDS)
        self._others = Turns(OTHER_PLACES, OTHER_SECONDS, OTHER_KEPT_SECONDS)
        self._streams = Turns(STREAM_PLACES, STREAM_SECONDS, KEPT_SECONDS)

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        """The method's handler, which is given a ServiceError for a message that was not received."""
        handler = await continuation(details)
        if handler is None:
            return None
        if details.method == method_path("ModelInfer"):
            return _counting(_in_turn(handler, self._infer), self._held.open())
        return _in_turn(handler, self._streams if handler.stream_stream else self._others)


def _in_turn(handler: RpcMethodHandler, turns: Turns) -> RpcMethodHandler:
    async def answer(_: Any, context: ServicerContext) -> Any:
        return await handler.unary_unary(await _receive(turns, context), context)

    async def stream(_: Any, context: ServicerContext) -> AsyncIterator[Any]:
        message = await _receive(turns, context)
        if isinstance(message, ServiceError):
            await context.abort(StatusCode[message.code], message.sentence)
        async for part in handler.unary_stream(message, context):
            yield part

    async def converse(messages: Any, context: ServicerContext) -> AsyncIterator[Any]:
        try:
            async with turns.take():
                async for part in handler.stream_stream(messages, context):
                    yield part
        except ServiceError as error:
            await context.abort(StatusCode[error.code], error.sentence)

    if handler.unary_unary:
        return handler._replace(request_streaming=True, unary_unary=None, stream_unary=answer)
    if handler.unary_stream:
        return handler._replace(request_streaming=True, unary_stream=None, stream_stream=stream)
    return handler._replace(stream_stream=converse)


async def _receive(turns: Turns, context: ServicerContext) -> Any:
    """The message, or why there is none."""
    try:
        async with turns.take():
            message = await context.read()
    except ServiceError as error:
        return error.without_frames()
    return InvalidRequest("the call has no message") if message is EOF else message


def _counting(handler: RpcMethodHandler, share: Share) -> RpcMethodHandler:
    """The same, with the message counted until the call ends."""

    def decode(data: bytes) -> Any:
        """The message, or the error in its place."""
        try:
            share.take(len(data))
        except ServiceError as error:
            return error.without_frames()
        return handler.request_deserializer(data)

    async def answer(messages: Any, context: ServicerContext) -> Any:
        _BEGAN.set(time.monotonic())
        with share:
            return await handler.stream_unary(messages, context)

    return handler._replace(request_deserializer=decode, stream_unary=answer)
