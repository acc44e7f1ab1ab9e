"""A request's body, capped while it is read, and work that stops when the caller goes away."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request

from serving.errors import BodyTooSlow, CallerGone, TooLarge, UnsupportedContentType

Answer = TypeVar("Answer")


async def read_body(request: Request, limit: int) -> bytes:
    """The whole body, held by the request's share until it is answered.

    Raises TooLarge as soon as it is known to be, QueueFull when all requests together hold too much, and BodyTooSlow
    when the request's time is spent.
    """
    if request.headers.get("content-encoding", "identity").lower() not in ("", "identity"):
        raise UnsupportedContentType("the body must not be compressed: send it without Content-Encoding")
    length = read_length(request.headers)
    if length > limit:
        raise TooLarge(f"the body has more than {limit} bytes")
    whole, body = b"", bytearray()  # not a list of chunks: the holes that those leave are not given back to the system
    try:
        async with asyncio.timeout(request.state.call.deadline.remaining()):
            async for chunk in request.stream():
                if len(body) + len(chunk) > limit:
                    raise TooLarge(f"the body has more than {limit} bytes")
                request.state.share.take(len(chunk))
                if len(chunk) == length:  # all of it, as nearly always: not copied again
                    whole = chunk
                else:
                    body += chunk
    except TimeoutError:
        raise BodyTooSlow("the body did not arrive in the time that a request may take") from None
    except ClientDisconnect:
        raise CallerGone("the caller went away in the middle of the body") from None
    return whole or bytes(body)


def read_length(headers: Headers) -> int:
    """The bytes that a body is said to have; -1 where nothing is said, or nothing that a body could have."""
    text = headers.get("content-length", "")
    return int(text) if text.isdecimal() and len(text) < 20 else -1


async def run_for_caller(request: Request, work: Coroutine[Any, Any, Answer]) -> Answer:
    """Do `work`, which must not swallow a cancellation, but cancel it when the caller closes the connection."""
    task, gone = asyncio.current_task(), False
    assert task

    async def cancel_when_gone() -> None:
        nonlocal gone
        await _wait_for_disconnect(request.receive)
        gone = True
        task.cancel()

    # The work has no task of its own: it would begin, and its answer be taken, a turn of the event loop later.
    watcher = asyncio.create_task(cancel_when_gone())
    try:
        return await work
    except asyncio.CancelledError:
        if gone and task.uncancel() == 0:  # nobody else cancelled it, too
            raise CallerGone("the caller went away before the answer") from None
        raise
    finally:
        watcher.cancel()


async def _wait_for_disconnect(receive: Callable[[], Awaitable[Any]]) -> None:
    message: dict[str, Any] = {}
    while message.get("type") != "http.disconnect":
        message = await receive()
