"""The micro-batcher: fires at once when idle, gathers while busy, drops what cannot be answered in time."""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from contract import Floats, Pixels, Prediction
from predictor.pace import Pace
from serving.deadline import Deadline
from serving.errors import DeadlineExceeded, QueueFull, ServiceError
from serving.logs import log_exception
from serving.metrics import PredictorMetrics

Forward = Callable[[Pixels], Prediction]
Record = Callable[[str, float, float], None]  # a stage, its begin and its end by time.monotonic()


@dataclass(eq=False)
class Work:
    """The pictures of one request, waiting."""

    pixels: Pixels  # [n, S, S, 3]
    deadline: Deadline
    answer: "asyncio.Future[Prediction]"
    arrived: float = field(default_factory=time.monotonic)
    begun: float | None = None  # its forward
    taken: bool = False


class MicroBatcher:
    """One queue for every request of every protocol, in front of one thread that owns the engine."""

    def __init__(
        self, forward: Forward, max_batch: int, max_queue: int, metrics: PredictorMetrics, pace: Pace | None = None
    ) -> None:
        self._forward, self._max_batch, self._max_queue, self._metrics = forward, max_batch, max_queue, metrics
        metrics.queue_limit.set(max_queue)
        metrics.batch_limit.set(max_batch)
        self._pace = pace or Pace()
        self._thread = ThreadPoolExecutor(1, "engine")
        self._waiting: deque[Work] = deque()
        self._queued = 0  # pictures
        self._running: asyncio.Task[None] | None = None
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
        if self._running is None:
            self._running = asyncio.create_task(self._run())
        try:
            return await asyncio.wait_for(work.answer, deadline.remaining())
        except TimeoutError:
            raise DeadlineExceeded("the predictor was too slow for the request's time") from None
        finally:
            self._leave(work)
            _record_stages(work, record)

    async def _run(self) -> None:
        try:
            while batch := self._take():
                await self._answer(batch)
        finally:
            self._running = None

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
            _fail(batch, ServiceError("the engine failed"))
        else:
            if pictures <= self._max_batch:
                self._pace.learn(pictures, time.monotonic() - begin)
            _deliver(batch, prediction)
        finally:
            self._free_at = 0.0

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
        return parts[0] if len(parts) == 1 else _join(parts)

    def _count(self, pictures: int) -> None:
        self._queued += pictures
        self._metrics.queue_depth.set(self._queued)

    async def close(self) -> None:
        """Let the engine's thread end; nobody may be waiting any more."""
        self._thread.shutdown(wait=False, cancel_futures=True)


def _record_stages(work: Work, record: Record) -> None:
    now = time.monotonic()
    record("queue", work.arrived, now if work.begun is None else work.begun)
    if work.begun is not None:
        record("forward", work.begun, now)


def _fail(batch: list[Work], error: Exception) -> None:
    for work in batch:
        if not work.answer.done():
            work.answer.set_exception(error)


def _deliver(batch: list[Work], prediction: Prediction) -> None:
    start = 0
    for work in batch:
        end = start + len(work.pixels)
        if not work.answer.done():
            work.answer.set_result(_rows(prediction, start, end))
        start = end


def _rows(prediction: Prediction, start: int, end: int) -> Prediction:
    probabilities = prediction.probabilities
    return Prediction(
        prediction.embedding[start:end],
        None if probabilities is None else probabilities[start:end],
        prediction.classes,
        prediction.info,
    )


def _join(parts: list[Prediction]) -> Prediction:
    probabilities: list[Floats] = [part.probabilities for part in parts if part.probabilities is not None]
    return Prediction(
        np.concatenate([part.embedding for part in parts]),
        np.concatenate(probabilities) if probabilities else None,
        parts[0].classes,
        parts[0].info,
    )
