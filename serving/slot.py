"""What is being served, replaced while requests use it: each one keeps what it began with until it ends."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

from serving.errors import NotReady

Value = TypeVar("Value")
Closer = Callable[[], Awaitable[None]]


@dataclass(eq=False)
class _Held(Generic[Value]):
    value: Value
    close: Closer
    users: int = 0


class Slot(Generic[Value]):
    """Holds one value; one that was taken out is closed when its last user has left."""

    def __init__(self) -> None:
        self._held: _Held[Value] | None = None
        self._closing: set[asyncio.Task[None]] = set()

    def put(self, value: Value, close: Closer) -> None:
        """Have `value` used from now on, in place of the one before."""
        self._swap(_Held(value, close))

    def empty(self) -> None:
        """Have nothing used from now on."""
        self._swap(None)

    @contextmanager
    def use(self) -> Iterator[Value]:
        """The value, which stays open for the time of the block; raises NotReady when there is none."""
        held = self._held
        if held is None:
            raise NotReady("the model is not loaded")
        held.users += 1
        try:
            yield held.value
        finally:
            held.users -= 1
            self._close_unused(held)

    async def close(self) -> None:
        """Take the value out, and wait until all that nobody uses any more is closed."""
        self.empty()
        await asyncio.gather(*self._closing)

    def _swap(self, held: _Held[Value] | None) -> None:
        before, self._held = self._held, held
        if before:
            self._close_unused(before)

    def _close_unused(self, held: _Held[Value]) -> None:
        if held is not self._held and held.users == 0:
            task = asyncio.ensure_future(held.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
