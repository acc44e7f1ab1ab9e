"""How long a batch takes, learnt from those that were computed."""

import statistics
from collections import deque

REMEMBERED = 8  # forwards of each size


class Pace:
    """Predicts from the medians of the last forwards: one that was held up by something else changes nothing.

    A size that was never computed counts as the next smaller one that was, so that too little is promised rarely and
    too much is refused never; without any, as nothing.
    """

    def __init__(self) -> None:
        self._last: dict[int, deque[float]] = {}
        self._medians: dict[int, float] = {}

    def learn(self, pictures: int, seconds: float) -> None:
        """A forward of `pictures` took this long."""
        last = self._last.setdefault(pictures, deque(maxlen=REMEMBERED))
        last.append(seconds)
        self._medians[pictures] = statistics.median(last)

    def predict(self, pictures: int) -> float:
        """Seconds that a forward of `pictures` will take."""
        return max((seconds for size, seconds in self._medians.items() if size <= pictures), default=0.0)

    def predict_queue(self, pictures: int, max_batch: int) -> float:
        """Seconds that `pictures`, gathered into full batches, will take."""
        full, rest = divmod(pictures, max_batch)
        return full * self.predict(max_batch) + (self.predict(rest) if rest else 0.0)
