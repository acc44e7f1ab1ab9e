"""What the requests of a process hold together, in bytes."""

import asyncio
import gc
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from serving.deadline import Deadline
from serving.errors import QueueFull
from serving.held import ByteBudget, HeldBytes
from serving.pool import BoundedPool


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Nothing may depend on when the garbage collector runs."""
    gc.disable()
    yield
    gc.enable()


def test_shares_are_given_back_once() -> None:
    budget = ByteBudget(10)
    with budget.open() as first, budget.open() as second:
        first.take(6)
        second.take(4)
        with pytest.raises(QueueFull):
            second.take(1)
        first.close()
        second.take(6)
    assert budget.taken == 0
    budget.open().take(10)
    assert budget.taken == 0


@pytest.mark.usefixtures("no_collector")
def test_bytes_count_until_the_last_thread_has_done_with_them() -> None:
    budget = ByteBudget(1000)

    def hold(data: bytes) -> int:
        view = memoryview(data)[10:]
        del data
        assert budget._taken == 100
        return len(view)

    share = budget.open()
    share.take(100)
    held = HeldBytes.of(bytearray(100), share)
    del share
    with ThreadPoolExecutor(1) as threads:
        done = threads.submit(hold, held)
        del held
        assert done.result() == 90
    assert budget.taken == 0


def test_a_queue_does_not_keep_what_callers_left() -> None:
    """However long its threads are busy."""
    budget, go = ByteBudget(1000), threading.Event()

    async def main() -> None:
        pool = BoundedPool("decode", 1, 10)
        busy = asyncio.create_task(pool.run(go.wait, Deadline.after(60)))
        await asyncio.sleep(0)
        share = budget.open()
        share.take(100)
        left = asyncio.create_task(_count(pool, HeldBytes.of(bytes(100), share)))
        del share
        await asyncio.sleep(0)
        left.cancel()
        await asyncio.wait([left])
        del left
        gc.collect()  # the frames of what was cancelled
        taken = budget.taken
        go.set()
        assert await busy
        pool.close()
        assert taken == 0

    asyncio.run(main())


async def _count(pool: BoundedPool, data: bytes) -> int:
    return await pool.run(lambda: len(data), Deadline.after(60))
