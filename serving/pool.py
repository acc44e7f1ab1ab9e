"""A bounded pool of threads for CPU work, so that the event loop never waits for it."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from serving.deadline import Deadline
from serving.errors import DeadlineExceeded, QueueFull

Result = TypeVar("Result")


class BoundedPool:
    """Runs functions in threads; takes no more than it can finish in time."""

    def __init__(self, name: str, threads: int, max_waiting: int) -> None:
        self.threads, self.max_waiting = threads, max_waiting
        self._name, self._limit, self._taken = name, threads + max_waiting, 0
        self._executor = ThreadPoolExecutor(threads, name)

    async def run(
        self, work: Callable[[], Result], deadline: Deadline, on_end: Callable[[], None] = lambda: None
    ) -> Result:
        """The result of `work()`, which does not begin once the caller is gone or the time is spent.

        Raises QueueFull, or DeadlineExceeded as soon as the time is spent, also while the work runs. `on_end` is called
        in the event loop when the work has come to its end, or will never begin.
        """
        try:
            future = self._submit(work, deadline)
        except BaseException:
            on_end()
            raise
        loop = asyncio.get_running_loop()
        self._taken += 1
        future.add_done_callback(lambda _: loop.call_soon_threadsafe(self._release, on_end))
        try:
            # Not wait_for, which forgets that it was cancelled when the work has just ended (Python 3.11).
            async with asyncio.timeout(deadline.remaining()):
                return await asyncio.wrap_future(future)
        except TimeoutError:
            raise DeadlineExceeded(f"the request's time was spent in the {self._name} queue") from None

    def _submit(self, work: Callable[[], Result], deadline: Deadline) -> "Future[Result]":
        if self._taken >= self._limit:
            raise QueueFull(f"the {self._name} queue is full")
        deadline.check()

        # The executor keeps what was cancelled until a thread comes to it: without the work, which holds a picture.
        left = [work]

        def run_in_time() -> Result:
            deadline.check()
            return left.pop()()

        future = self._executor.submit(run_in_time)
        future.add_done_callback(lambda _: left.clear())
        return future

    @property
    def waiting(self) -> int:
        """How many wait for a thread."""
        return max(0, self._taken - self.threads)

    def _release(self, on_end: Callable[[], None]) -> None:
        self._taken -= 1
        on_end()

    def close(self) -> None:
        """Let the threads end."""
        self._executor.shutdown(wait=False, cancel_futures=True)
