"""The time budget of one request, spent by every step."""

import time
from dataclasses import dataclass

from serving.errors import DeadlineExceeded


@dataclass(frozen=True)
class Deadline:
    """A moment on the monotonic clock, in seconds."""

    at: float

    @classmethod
    def after(cls, seconds: float) -> "Deadline":
        return cls(time.monotonic() + seconds)

    def remaining(self) -> float:
        """Seconds left; negative when it has passed."""
        return self.at - time.monotonic()

    def check(self) -> None:
        """Raise DeadlineExceeded when the time is spent."""
        if self.remaining() <= 0:
            raise DeadlineExceeded("the request's time was spent before it was answered")
