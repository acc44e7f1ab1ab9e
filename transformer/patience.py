"""A predictor that is waited for while it is busy, restarting or away, for programs that nobody waits for."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from contract import Pixels, Prediction
from serving.call import Call
from serving.deadline import Deadline
from serving.errors import DeadlineExceeded, NotReady, QueueFull, ServiceError
from transformer.pipeline import Predictor

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0  # seconds

Result = TypeVar("Result")


class PatientPredictor:
    """Sends a few batches at a time, and each one until it is answered."""

    def __init__(
        self, predictor: Predictor, batches: int, request_timeout: float, patience: float, say: Callable[[str], None]
    ) -> None:
        """`patience` is for how many seconds every attempt may fail; `say` is told once when waiting begins."""
        self._predictor, self._request_timeout, self._patience, self._say = predictor, request_timeout, patience, say
        self._slots = asyncio.Semaphore(batches)
        self._failing_since: float | None = None  # all requests share it: one answer shows that the predictor is there

    async def predict(self, pixels: Pixels) -> Prediction:
        """The prediction of [N, S, S, 3] uint8; raises the last ServiceError when patience is at an end."""
        async with self._slots:
            return await self.ask(lambda call: self._predictor.predict(pixels, call))

    async def ask(self, send: Callable[[Call], Awaitable[Result]]) -> Result:
        """The answer of `send`, tried again with growing pauses."""
        pause = FIRST_PAUSE
        while True:
            try:
                answer = await send(Call(Deadline.after(self._request_timeout)))
            except (NotReady, QueueFull, DeadlineExceeded) as error:
                self._note_failure(error)
            else:
                self._failing_since = None
                return answer
            # Of random length, so that many shards do not come back as one.
            await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311
            pause = min(2 * pause, LONGEST_PAUSE)

    def _note_failure(self, error: ServiceError) -> None:
        now = time.monotonic()
        if self._failing_since is None:
            self._failing_since = now
            if not isinstance(error, QueueFull):  # a full queue is everyday life, and says that somebody is there
                self._say(f"waiting for the predictor: {error.sentence}")
        if now - self._failing_since >= self._patience:
            raise NotReady(
                f"no answer from the predictor for {self._patience:g} s ({error.sentence}); "
                "when it is back, the same command goes on where this one ended"
            )
