"""How many bytes the requests of a process hold together: bodies, messages and the pictures that they name."""

from queue import SimpleQueue
from typing import Self

from serving.errors import QueueFull


class ByteBudget:
    """Takes are of the event loop's thread only; bytes are given back in any."""

    def __init__(self, most: int) -> None:
        self._most, self._taken = most, 0
        # A queue, whose put may interrupt itself: bytes are given back by destructors, too.
        self._returned: SimpleQueue[int] = SimpleQueue()

    @property
    def taken(self) -> int:
        """Bytes that are held just now."""
        while not self._returned.empty():
            self._taken -= self._returned.get()
        return self._taken

    def take(self, amount: int) -> None:
        """Count `amount` more bytes; raises QueueFull when there is no room for them."""
        if self.taken + amount > self._most:
            raise QueueFull("the requests that are being answered hold as many bytes as this server has room for")
        self._taken += amount

    def give_back(self, amount: int) -> None:
        """Have room for `amount` bytes again."""
        self._returned.put(amount)

    def open(self) -> "Share":
        """An empty share."""
        return Share(self)


class Share:
    """What one request or one picture holds; given back when it is closed, or nothing refers to it any more."""

    def __init__(self, budget: ByteBudget) -> None:
        self._budget, self._amount = budget, 0

    def take(self, amount: int) -> None:
        """Hold `amount` more bytes; raises QueueFull."""
        self._budget.take(amount)
        self._amount += amount

    def close(self) -> None:
        """Give all back."""
        amount, self._amount = self._amount, 0
        if amount:
            self._budget.give_back(amount)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


class HeldBytes(bytes):
    """Bytes that count for as long as they are in memory: their callers may be gone while a thread still reads them."""

    share: Share

    @classmethod
    def of(cls, data: bytes | bytearray, share: Share) -> Self:
        """`data`, for which `share` has taken room."""
        held = cls(data)
        held.share = share
        return held
