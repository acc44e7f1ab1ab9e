"""Says how long a batch may wait for callers who were just answered, so that halves of them take turns."""

import time
from collections.abc import Callable

SHARE = 0.2  # of the last forward's time: what waiting may cost
MOST_SKIPS = 64  # batches


class Turns:
    """Half of those who ask are computed while the other half is answered and asks again.

    Callers who wait for their answers come back at once, one after the other. If the first of them had a forward of its
    own, eight would end as batches of one and of seven that take turns. Waiting that was in vain is not tried again for
    a while, longer each time. Whoever asks alone is never kept waiting.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._until = clock, 0.0
        self.expected = 0  # requests in the next batch
        self._skips_left = 0  # batches that are not waited for
        self._last_skips = 0

    def end(self, answered: int, waiting: int, seconds: float) -> None:
        """A batch of so many requests took so long, and so many are in the queue."""
        self.expected = (answered + waiting + 1) // 2
        self._until = self._clock() + SHARE * seconds
        self._skips_left = max(0, self._skips_left - 1)

    def seconds(self) -> float:
        """How long the next batch may wait until it has as many requests as are expected."""
        return 0.0 if self._skips_left else max(0.0, self._until - self._clock())

    def learn(self, came: bool) -> None:
        """Whether as many came in that time."""
        self._last_skips = 0 if came else min(MOST_SKIPS, 2 * self._last_skips or 1)
        self._skips_left = self._last_skips and self._last_skips + 1  # the batch that waited in vain ends, too
