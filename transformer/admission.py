"""Says when to refuse requests at the door, before their pictures are downloaded: while a queue behind it is full."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from serving.errors import QueueFull

CUT = 0.7  # of what is inside, when a queue behind is full; as CUBIC does (RFC 9438)
GROWTH = 0.25  # for each picture that was answered: what predictors can do is found again within seconds
FEWEST = 16  # pictures in the queues that are never refused: several batches
PAUSE = 0.1  # seconds in which further full queues are the same news


class Admission:
    """A limit on the pictures in the queues, found as TCP finds a link's: answers let it grow, a full queue cuts it.

    There is no limit until a queue has been full. It needs to know neither rates nor how many predictors there are,
    and transformers that share predictors come to equal shares.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._cut_at = clock, -math.inf
        self._inside, self._limit = 0, math.inf

    def has_room(self) -> bool:
        """Whether a request may come in."""
        return self._inside < self._limit

    @contextmanager
    def enter(self, pictures: int) -> Iterator[None]:
        """While they wait in a queue or are worked on; a queue that is full cuts the limit.

        Not while they are downloaded, or wait for the memory of large pictures: that may take long, and others
        pass them.
        """
        self._inside += pictures
        try:
            yield
        except QueueFull:
            self._cut()
            raise
        finally:
            self._inside -= pictures

    def grow(self, pictures: int) -> None:
        """So many were answered, and are not inside any more.

        The limit stays as it is while it is far away (RFC 7661 says the same of TCP): what a quiet hour does not try
        is not known to fit, and the first wave after it would be decoded before it is refused.
        """
        if 2 * (self._inside + pictures) >= self._limit:
            self._limit += GROWTH * pictures

    def _cut(self) -> None:
        now = self._clock()
        if now - self._cut_at >= PAUSE:
            self._cut_at = now
            self._limit = max(FEWEST, CUT * min(self._limit, self._inside))
