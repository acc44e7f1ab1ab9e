"""The micro-batcher: a lone request at once, gathers while busy, drops what cannot be answered in time."""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np

from contract import Pixels, Prediction
from predictor.pace import Pace
from predictor.turns import Turns
from predictor.work import Record, Work, deliver, fail, join, record_stages
from serving.deadline import Deadline
from serving.errors import DeadlineExceeded, QueueFull, ServiceError
from serving.logs import log_exception
from serving.metrics import PredictorMetrics

Forward = Callable[[Pixels], Prediction]


class MicroBatcher:
    """One queue for every request of every protocol, in front of one thread that owns the engine.

    `thread` is the one that loaded it, if that matters to it; it ends with the batcher.
    """

    def __init__(
        self,
        forward: Forward,
        max_batch: int,
        max_queue: int,
        metrics: PredictorMetrics,
        thread: ThreadPoolExecutor | None = None,
        pace: Pace | None = None,
    ) -> None:
        self._forward, self._max_batch, self._max_queue, self._metrics = forward, max_batch, max_queue, metrics
        metrics.queue_limit.set(max_queue)
        metrics.batch_limit.set(max_batch)
        self._pace = pace or Pace()
        self._thread = thread or ThreadPoolExecutor(1, "engine")
        self._waiting: deque[Work] = deque()
        self._queued = 0  # pictures
        self._running: asyncio.Task[None] | None = None
        self._turns = Turns()
        self._go = asyncio.Event()  # the next batch need not wait for more requests
        self._free_at = 0.0  # by time.monotonic(): when the engine should be done with its batch

    async def submit(self, pixels: Pixels, deadline: Deadline, record: Record = lambda *_: None) -> Prediction:
        """The prediction of `pixels`; raises QueueFull, DeadlineExceeded or ServiceError when the engine fails."""
        deadline.check()
        if self._waiting and self._queued + len(pixels) > self._max_queue:
            self._metrics.queue_full.inc()
            raise QueueFull(f"{self._queued} pictures are waiting already, the queue takes {self._max_queue}")
        if self._waiting and self._rest() + self._seconds(self._queued + len(pixels)) > deadline.remaining():
            self._metrics.queue_full.inc()
            raise QueueFull(f"{self._queued} pictures that are waiting before it take longer than this request may")
        work = Work(pixels, deadline, asyncio.get_running_loop().create_future())
        self._waiting.append(work)
        self._count(len(pixels))
        if self._is_enough() or deadline.remaining() < self._seconds(self._max_batch) + self._turns.seconds():
            self._go.set()
        if self._running is None:
            self._running = asyncio.create_task(self._run())
        try:
            async with asyncio.timeout(deadline.remaining()):
                return await work.answer
        except TimeoutError:
            raise DeadlineExceeded("the predictor was too slow for the request's time") from None
        finally:
            self._leave(work)
            record_stages(work, record)

    async def _run(self) -> None:
        try:
            while self._waiting:
                await self._gather()
                if batch := self._take():
                    await self._answer(batch)
        finally:
            self._running = None

    async def _gather(self) -> None:
        """Let callers who were just answered come again, where that has paid and makes nobody late."""
        if self._is_enough():
            return
        spare = min(work.deadline.remaining() for work in self._waiting) - self._seconds(self._max_batch)
        if 0 < (seconds := self._turns.seconds()) <= spare:
            self._go.clear()
            self._turns.learn(came=await _wait(self._go, seconds))

    def _is_enough(self) -> bool:
        """Whether the next batch should not wait for more."""
        return len(self._waiting) >= self._turns.expected or self._queued >= self._max_batch

    def _take(self) -> list[Work]:
        """Requests up to the largest batch; one larger than that comes alone and is cut by `_predict`."""
        batch: list[Work] = []
        pictures = 0
        while self._waiting and (not batch or self._fits(batch, pictures + len(self._waiting[0].pixels))):
            work = self._waiting[0]
            self._leave(work)
            if not self._is_hopeless(work):
                batch.append(work)
                pictures += len(work.pixels)
        return batch

    def _fits(self, batch: list[Work], pictures: int) -> bool:
        """Whether the batch may grow to `pictures` without making those late that would be in time as it is."""
        if pictures > self._max_batch:
            return False
        left, now = min(work.deadline.remaining() for work in batch), sum(len(work.pixels) for work in batch)
        return self._seconds(pictures) <= left or self._seconds(now) > left

    def _is_hopeless(self, work: Work) -> bool:
        """Whether nobody waits for `work`, or its time will be over before it is done and others wait.

        The last one is always tried: that costs nobody anything, and it shows when the engine has become faster.
        """
        left = work.deadline.remaining()
        late = left <= 0 or (bool(self._waiting) and self._seconds(len(work.pixels)) > left)
        if late and not work.answer.done():
            work.answer.set_exception(DeadlineExceeded("the request's time was spent in the queue"))
        return work.answer.done()

    def _seconds(self, pictures: int) -> float:
        return self._pace.predict_queue(pictures, self._max_batch)

    def _rest(self) -> float:
        """Seconds until the batch that is computed should be done."""
        return max(0.0, self._free_at - time.monotonic())

    def _leave(self, work: Work) -> None:
        """Take `work` out of the queue, where it still is there: its caller may be gone before its turn."""
        if not work.taken:
            work.taken = True
            self._waiting.remove(work)
            self._count(-len(work.pixels))

    async def _answer(self, batch: list[Work]) -> None:
        begin, pictures = time.monotonic(), sum(len(work.pixels) for work in batch)
        self._free_at = begin + self._seconds(pictures)
        for work in batch:
            work.begun = begin
            self._metrics.queue_wait.observe(begin - work.arrived)
        try:
            with self._metrics.busy.track():
                prediction = await asyncio.get_running_loop().run_in_executor(self._thread, self._predict, batch)
        except Exception as error:
            log_exception("the engine failed", error, pictures=pictures)
            fail(batch, ServiceError("the engine failed"))
        else:
            if pictures <= self._max_batch:
                self._pace.learn(pictures, time.monotonic() - begin)
            deliver(batch, prediction)
        finally:
            self._free_at = 0.0
            self._turns.end(len(batch), len(self._waiting), time.monotonic() - begin)

    def _predict(self, batch: list[Work]) -> Prediction:
        pixels = batch[0].pixels if len(batch) == 1 else np.concatenate([work.pixels for work in batch])
        parts: list[Prediction] = []
        for start in range(0, len(pixels), self._max_batch):
            if start and batch[0].answer.done():  # nobody waits for the rest
                break
            part = pixels[start : start + self._max_batch]
            self._metrics.batch_size.observe(len(part))
            parts.append(self._forward(part))
            if len(parts[-1].embedding) != len(part):
                raise ValueError(f"the engine gave {len(parts[-1].embedding)} answers for {len(part)} pictures")
        return parts[0] if len(parts) == 1 else join(parts)

    def _count(self, pictures: int) -> None:
        self._queued += pictures
        self._metrics.queue_depth.set(self._queued)

    async def close(self) -> None:
        """Let the engine's thread end; nobody may be waiting any more."""
        self._thread.shutdown(wait=False, cancel_futures=True)


async def _wait(event: asyncio.Event, seconds: float) -> bool:
    """Whether it was set in that time."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    return event.is_set()
