"""The path of a request: fetch, decode, predict, search."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import numpy as np

from contract import Pixels, Prediction
from serving.call import Call
from serving.deadline import Deadline
from serving.errors import CallerGone, DeadlineExceeded, NotReady, QueueFull, ServiceError, TooLarge
from serving.metrics import TransformerMetrics
from serving.pool import BoundedPool
from transformer.admission import Admission
from transformer.answer import Answer, Picture, Query, place_rows
from transformer.compatibility import check_prediction, find_unknown
from transformer.decode import decode
from transformer.decode_pool import DecodePool
from transformer.index_query import IndexQuery, list_index_queries
from transformer.limits import PictureLimits
from transformer.search import Index, Match

MAX_SEARCHES = 1024  # waiting; the predictor is the narrower place

Fetch = Callable[[str, Deadline], Awaitable[bytes]]


class Predictor(Protocol):
    """Over the wire, in this process, or a stand-in."""

    async def predict(self, pixels: Pixels, call: Call) -> Prediction:
        """Classify and embed [N, S, S, 3] uint8."""


class Pipeline:
    """The steps with what they work on: an index, a predictor, and threads for decoding and searching."""

    def __init__(
        self, index: Index, predictor: Predictor, fetch: Fetch, pool: DecodePool, size: int,
        limits: PictureLimits, metrics: TransformerMetrics,
    ) -> None:  # fmt: skip
        self.index, self.size = index, size
        # A thread of its own: work that is nearly done must not wait behind pictures that have just come.
        self._searches = BoundedPool("search", 1, MAX_SEARCHES)
        self._admission = Admission()
        self._known_classes: tuple[str, ...] = ()
        self._predictor, self._fetch, self._pool, self._limits, self._metrics = predictor, fetch, pool, limits, metrics
        self._exif_orientation = index.mark.exif_orientation if index.mark else False

    def close(self) -> None:
        """Let the threads end."""
        self._searches.close()
        self._pool.close()

    def check_room(self) -> None:
        """Raise QueueFull while a queue behind the door is full."""
        if not self._admission.has_room():
            self._metrics.decode_full.inc()
            raise QueueFull("more is asked than can be answered in time")

    async def answer(self, queries: Sequence[Query], call: Call, *, partial: bool = False) -> Answer:
        """Answer every query; with `partial` the good ones although others failed, without it none."""
        self.check_room()
        rows = await self._read_all([query.picture for query in queries], partial, call)
        errors = [row if isinstance(row, ServiceError) else None for row in rows]
        good = [row for row in rows if not isinstance(row, ServiceError)]
        prediction = await self.predict(np.stack(good), call)  # [G, S, S, 3] uint8
        self._check_classes(prediction.classes)
        with call.stage("search"):
            asked = [query for query, error in zip(queries, errors, strict=True) if error is None]
            matches = await self._search(list_index_queries(prediction, asked), call.deadline)
        return place_rows(prediction, matches, errors)

    async def predict(self, pixels: Pixels, call: Call) -> Prediction:
        """The predictor's answer, checked against the index."""
        call.deadline.check()
        with self._metrics.predicting.track(), call.stage("predict", remote=True) as inside:
            try:
                with self._admission.enter(len(pixels)):
                    prediction = await self._predictor.predict(pixels, inside)
            except ServiceError as error:
                self._metrics.predictor_up.set(not isinstance(error, NotReady | DeadlineExceeded))
                raise
        self._metrics.predictor_up.set(1)
        self._admission.grow(len(pixels))
        self._check(prediction)
        return prediction

    def _check(self, prediction: Prediction) -> None:
        try:
            check_prediction(prediction, self.index)
        except NotReady:
            self._metrics.mismatches.inc()
            raise

    def _check_classes(self, classes: tuple[str, ...]) -> None:
        """Refuse a head that was changed for one that does not know the index."""
        if classes is self._known_classes:
            return
        if unknown := find_unknown(classes, self.index):
            raise NotReady(f"the predictor's head does not know the class {unknown[0]!r} of the index")
        self._known_classes = classes

    async def _read_all(self, pictures: Sequence[Picture], partial: bool, call: Call) -> list[Pixels | ServiceError]:
        # No request takes more of the queue than it can use, so that others get their turn.
        turns = asyncio.Semaphore(self._pool.threads)
        if len(pictures) == 1:  # needs no task, which would begin a turn of the event loop later
            return [await self._read(pictures[0], call, turns)]
        tasks = [asyncio.create_task(self._read(picture, call, turns)) for picture in pictures]
        try:
            await asyncio.wait(tasks, return_when=asyncio.ALL_COMPLETED if partial else asyncio.FIRST_EXCEPTION)
            rows = [_result(task) for task in tasks if task.done()]
            failed = [(i, task) for i, task in enumerate(tasks) if task.done() and task.exception()]
            if failed and (not partial or len(failed) == len(tasks)):
                raise _named(*failed[0], len(tasks))
            return rows
        finally:
            for task in tasks:
                task.cancel()

    async def _read(self, picture: Picture, call: Call, turns: asyncio.Semaphore) -> Pixels:
        data = await self.fetch(picture, call) if isinstance(picture, str) else picture
        if len(data) > self._limits.max_bytes:
            raise TooLarge(f"the picture has more than {self._limits.max_bytes} bytes")
        async with turns:
            with call.stage("decode"):
                return await self._decode_in_pool(data, call.deadline)

    async def _decode_in_pool(self, data: bytes, deadline: Deadline) -> Pixels:
        try:
            return await self._pool.decode(
                lambda room: self._decode(data, room), deadline, lambda: self._admission.enter(1)
            )
        except QueueFull:
            self._metrics.decode_full.inc()
            raise

    def _decode(self, data: bytes, room: int) -> Pixels:
        pixels = self._limits.max_pixels
        return decode(data, self.size, exif_orientation=self._exif_orientation, max_pixels=pixels, room=room)

    async def fetch(self, url: str, call: Call) -> bytes:
        """The bytes behind a URL."""
        begin, code = time.perf_counter(), "200"
        try:
            with call.stage("fetch", remote=True), self._metrics.fetches_now.track_inprogress():
                return await self._fetch(url, call.deadline)
        except ServiceError as error:
            code = str(error.status)
            self._metrics.fetch_failures.labels(error.reason).inc()
            raise
        except asyncio.CancelledError:  # another picture failed, or the caller went away
            code = str(CallerGone.status)
            raise
        finally:
            self._metrics.fetches.labels(code).observe(time.perf_counter() - begin)

    async def _search(self, queries: Sequence[IndexQuery], deadline: Deadline) -> list[list[Match]]:
        def search_all() -> list[list[Match]]:
            return [self.index.search(*query) for query in queries]

        if len(queries) == 1 and self.index.is_quick(queries[0].classes):
            deadline.check()
            return search_all()
        return await self._searches.run(search_all, deadline)


def _result(task: "asyncio.Task[Pixels]") -> Pixels | ServiceError:
    error = task.exception()
    if error is None:
        return task.result()
    if isinstance(error, ServiceError):
        return error
    raise error


def _named(position: int, task: "asyncio.Task[Pixels]", count: int) -> BaseException:
    error = task.exception()
    assert error
    return error.in_picture(position) if isinstance(error, ServiceError) and count > 1 else error
