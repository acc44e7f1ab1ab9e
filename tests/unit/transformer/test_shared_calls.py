"""Equal calls in flight run once, and one caller's leaving is not another's failure."""

import asyncio
import gc
from collections.abc import Awaitable, Callable

import pytest

from serving.deadline import Deadline
from serving.errors import FetchFailed, NotReady
from tests.unit.transformer.fetching import PICTURE, Run, both_loops, download_from
from transformer.shared_calls import SharedCalls


class Call:
    """A call that ends when told to, and counts."""

    def __init__(self) -> None:
        self.begun = self.cancelled = 0
        self.end = asyncio.Event()
        self.error: Exception | None = None

    async def __call__(self) -> int:
        self.begun += 1
        try:
            await self.end.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.error:
            raise self.error
        return self.begun


async def start(calls: SharedCalls[int], call: Callable[[], Awaitable[int]], count: int) -> list[asyncio.Task[int]]:
    tasks = [asyncio.create_task(calls.run("key", call)) for _ in range(count)]
    for _ in range(5):
        await asyncio.sleep(0)
    return tasks


def test_equal_calls_run_once_and_later_ones_again() -> None:
    async def main() -> None:
        calls, call, other = SharedCalls[int](), Call(), Call()
        tasks = await start(calls, call, 5)
        other.end.set()
        assert await calls.run("other key", other) == other.begun == 1
        call.end.set()
        assert await asyncio.gather(*tasks) == [1] * 5
        assert await calls.run("key", call) == 2
        assert (calls._tasks, calls._callers) == ({}, {})

    asyncio.run(main())


def test_a_caller_that_leaves_does_not_disturb_the_others() -> None:
    async def main() -> None:
        calls, call = SharedCalls[int](), Call()
        tasks = await start(calls, call, 3)
        tasks[0].cancel()  # the one that began the call
        with pytest.raises(asyncio.CancelledError):
            await tasks[0]
        call.end.set()
        assert await asyncio.gather(*tasks[1:]) == [1, 1]
        assert call.cancelled == 0

    asyncio.run(main())


def test_when_all_have_left_the_call_is_cancelled_and_the_next_begins_anew() -> None:
    async def main() -> None:
        calls, call = SharedCalls[int](), Call()
        for task in await start(calls, call, 3):
            task.cancel()
        while not call.cancelled:
            late = await start(calls, call, 1)  # from the first turn on, while the old call is being cancelled
        call.end.set()
        assert await late[0] == call.begun == 2

    asyncio.run(main())


def test_a_failure_is_everyones_and_is_not_kept(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        calls, call = SharedCalls[int](), Call()
        call.error = FetchFailed("no")
        call.end.set()
        results = await asyncio.gather(*await start(calls, call, 3), return_exceptions=True)
        assert results == [call.error] * 3
        call.error = None
        assert await calls.run("key", call) == 2

    asyncio.run(main())
    assert not caplog.records


def test_a_failure_that_nobody_is_left_to_see_is_not_complained_about(caplog: pytest.LogCaptureFixture) -> None:
    async def fail_when_cancelled() -> int:
        try:
            return await asyncio.Event().wait()
        finally:
            raise FetchFailed("no")

    async def main() -> None:
        (task,) = await start(SharedCalls[int](), fail_when_cancelled, 1)
        task.cancel()
        await asyncio.sleep(0.01)

    asyncio.run(main())
    gc.collect()
    assert not caplog.records


def test_closing_is_not_mistaken_for_the_callers_own_cancellation() -> None:
    async def main() -> None:
        calls, call = SharedCalls[int](), Call()
        stays, leaves = await start(calls, call, 2)
        leaves.cancel()
        await calls.close()
        results = await asyncio.gather(stays, leaves, return_exceptions=True)
        assert [type(result) for result in results] == [NotReady, asyncio.CancelledError]

    asyncio.run(main())


@both_loops
def test_equal_urls_in_flight_are_fetched_once(run: Run) -> None:
    async def main() -> None:
        async with download_from() as (host, downloader):
            url = host.url("/later/0.3/dog.jpg")
            impatient = asyncio.create_task(downloader.fetch(url, Deadline.after(0.1)))
            patient = [downloader.fetch(f"{url}#{n}", Deadline.after(20)) for n in range(9)]
            assert await asyncio.gather(*patient) == [PICTURE] * 9
            with pytest.raises(FetchFailed):
                await impatient
            assert len(host.requests) == 1
            assert await downloader.fetch(url, Deadline.after(20)) == PICTURE
            assert len(host.requests) == 2

    run(main())
