"""Equal calls that are under way at the same time run once."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from serving.errors import NotReady

Result = TypeVar("Result")


class SharedCalls(Generic[Result]):
    """Joins calls by key: each caller may leave, and the call is cancelled when the last one has left."""

    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[Result]] = {}
        self._callers: dict[asyncio.Task[Result], int] = {}
        self._closed = False

    async def run(self, key: str, call: Callable[[], Awaitable[Result]]) -> Result:
        """The result of `call`, or of the equal one that is under way; raises what it raises, NotReady when closed."""
        if self._closed:
            raise NotReady("the service is stopping")
        task = self._tasks.get(key) or self._start(key, call)
        self._callers[task] += 1
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if self._closed and not _is_cancelled():
                raise NotReady("the service is stopping") from None
            raise
        finally:
            self._leave(key, task)

    async def close(self) -> None:
        """Cancel all calls."""
        self._closed = True
        tasks = list(self._callers)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _start(self, key: str, call: Callable[[], Awaitable[Result]]) -> asyncio.Task[Result]:
        async def run() -> Result:
            return await call()

        task = self._tasks[key] = asyncio.create_task(run())
        self._callers[task] = 0
        task.add_done_callback(lambda _: self._forget(key, task))
        return task

    def _leave(self, key: str, task: asyncio.Task[Result]) -> None:
        self._callers[task] -= 1
        if self._callers[task]:
            return
        del self._callers[task]
        self._forget(key, task)  # at once: a later caller must not join a call that is being cancelled
        task.cancel()

    def _forget(self, key: str, task: asyncio.Task[Result]) -> None:
        if self._tasks.get(key) is task:
            del self._tasks[key]
        if task.done() and not task.cancelled():
            task.exception()  # nobody may be left to see it


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
