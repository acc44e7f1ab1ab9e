"""Threads that decode pictures, of which the large ones share the memory that the process gives to them."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from serving.deadline import Deadline
from serving.errors import DeadlineExceeded, QueueFull, TooLarge
from serving.pool import BoundedPool
from transformer.decode import MemoryNeeded

Result = TypeVar("Result")
Enter = Callable[[], contextlib.AbstractContextManager[None]]

SMALL = 48 * 2**20  # bytes that every thread may take without asking: 12 megapixels as RGB, 3 as WebP
MAX_LARGE = 64  # pictures


@dataclass(eq=False)
class _Waiting:
    amount: int
    turn: "asyncio.Future[None]"


class DecodeMemory:
    """Bytes for large pictures, of all pools of the process; whoever waits is served in order."""

    def __init__(self, most: int) -> None:
        self._most, self.taken = most, 0
        self._waiting: deque[_Waiting] = deque()

    async def take(self, amount: int, deadline: Deadline) -> None:
        """Wait for `amount` bytes; raises TooLarge for more than there are, QueueFull or DeadlineExceeded."""
        if amount > self._most:
            raise TooLarge("the picture takes more memory than this server has for one: send a smaller one, or a JPEG")
        if len(self._waiting) >= MAX_LARGE:
            raise QueueFull("the queue of large pictures is full")
        waiting = _Waiting(amount, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._admit()
        try:
            async with asyncio.timeout(deadline.remaining()):
                await waiting.turn
        except BaseException as error:
            self._leave(waiting)
            if isinstance(error, TimeoutError):
                raise DeadlineExceeded("the request's time was spent in the queue of large pictures") from None
            raise

    def give_back(self, amount: int) -> None:
        """Let the next ones have `amount` bytes."""
        self.taken -= amount
        self._admit()

    def _admit(self) -> None:
        while self._waiting and self._fits(self._waiting[0]):
            first = self._waiting.popleft()
            self.taken += first.amount
            first.turn.set_result(None)

    def _fits(self, waiting: _Waiting) -> bool:
        return not waiting.turn.done() and self.taken + waiting.amount <= self._most

    def _leave(self, waiting: _Waiting) -> None:
        if waiting in self._waiting:
            self._waiting.remove(waiting)
            self._admit()
        else:  # its turn came in the same moment
            self.give_back(waiting.amount)


class DecodePool(BoundedPool):
    """A bounded pool in which large pictures wait for memory outside of the threads, so that small ones pass them."""

    def __init__(self, name: str, threads: int, max_waiting: int, memory: DecodeMemory) -> None:
        super().__init__(name, threads, max_waiting)
        self._memory = memory

    async def decode(
        self, work: Callable[[int], Result], deadline: Deadline, enter: Enter = contextlib.nullcontext
    ) -> Result:
        """The result of `work(room)`, which raises MemoryNeeded when it takes more than `room` bytes.

        While it is in the queue or in a thread it is inside of `enter()`. Raises what `run` raises, and TooLarge for
        what takes more memory than the process gives to pictures.
        """
        try:
            with enter():
                return await self.run(lambda: work(SMALL), deadline)
        except MemoryNeeded as error:
            amount = error.amount
        await self._memory.take(amount, deadline)
        with enter():
            return await self.run(lambda: work(amount), deadline, lambda: self._memory.give_back(amount))
