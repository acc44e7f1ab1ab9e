"""A request's body, and work that ends with its caller."""

import asyncio
import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest
from starlette.datastructures import Headers
from starlette.requests import Request

from serving.body import read_body, read_length, run_for_caller
from serving.call import Call
from serving.deadline import Deadline
from serving.errors import CallerGone, TooLarge
from serving.held import ByteBudget
from serving.pool import BoundedPool

LATER = 60.0  # seconds


def request(messages: Sequence[dict[str, Any]], length: int | None, share: Any = None) -> Request:
    """What it receives after `messages` never comes."""
    waiting = iter(messages)

    async def receive() -> dict[str, Any]:
        return next(waiting, None) or await asyncio.sleep(LATER, {"type": "http.disconnect"})

    headers = [] if length is None else [(b"content-length", str(length).encode())]
    state = {"call": Call(Deadline.after(LATER)), "share": share}
    return Request({"type": "http", "method": "POST", "headers": headers, "state": state}, receive)


def pieces(*bodies: bytes) -> list[dict[str, Any]]:
    last = len(bodies) - 1
    return [{"type": "http.request", "body": body, "more_body": i < last} for i, body in enumerate(bodies)]


@pytest.mark.parametrize("length", [6, None], ids=["declared", "chunked"])
@pytest.mark.parametrize("bodies", [[b"pixels"], [b"pix", b"els"], [b"pixels", b""], [b"", b"pixels"]])
def test_a_body_is_the_same_however_it_comes(bodies: list[bytes], length: int | None) -> None:
    with ByteBudget(1000).open() as share:
        assert asyncio.run(read_body(request(pieces(*bodies), length, share), 6)) == b"pixels"
        with pytest.raises(TooLarge):
            asyncio.run(read_body(request(pieces(*bodies), length, share), 5))


async def _work(done: list[str]) -> str:
    try:
        await asyncio.sleep(0.05)
        done.append("answered")
        return "answer"
    except asyncio.CancelledError:
        done.append("cancelled")
        raise


@pytest.mark.parametrize(
    ("said", "length"), [("7", 7), ("", -1), ("-7", -1), ("²", -1), ("9" * 20, -1), ("0" * 5000, -1)]
)
def test_a_length_is_a_number_that_a_body_could_have(said: str, length: int) -> None:
    assert read_length(Headers({"content-length": said})) == length


@pytest.mark.parametrize("turns", range(2))
def test_a_cancellation_is_not_lost_when_the_work_has_just_ended(turns: int) -> None:
    async def main() -> None:
        pool, ended = BoundedPool("test", 1, 1), threading.Event()
        task = asyncio.create_task(pool.run(ended.set, Deadline.after(LATER)))
        await asyncio.sleep(0)
        ended.wait(LATER)
        time.sleep(0.05)  # noqa: ASYNC251  # the event loop is busy, and has still to be told
        for _ in range(turns):
            await asyncio.sleep(0)
        assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        pool.close()

    asyncio.run(main())


def test_work_ends_when_its_caller_has_gone() -> None:
    done: list[str] = []
    with pytest.raises(CallerGone):
        asyncio.run(run_for_caller(request([{"type": "http.disconnect"}], None), _work(done)))
    assert done == ["cancelled"]


def test_a_caller_who_stays_gets_the_answer() -> None:
    assert asyncio.run(run_for_caller(request([], None), _work([]))) == "answer"


def test_a_server_that_stops_is_not_taken_for_a_caller_who_has_gone() -> None:
    async def main(*, gone: bool) -> None:
        messages = [{"type": "http.disconnect"}] if gone else []
        task = asyncio.create_task(run_for_caller(request(messages, None), _work([])))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main(gone=False))
    asyncio.run(main(gone=True))
