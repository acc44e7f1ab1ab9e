"""The micro-batcher: whose answer is whose, and what is never computed."""

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract import Pixels, Prediction, PredictorInfo
from predictor.batching import MicroBatcher
from predictor.pace import Pace
from predictor.turns import Turns
from serving.deadline import Deadline
from serving.errors import DeadlineExceeded, QueueFull, ServiceError
from serving.metrics import PredictorMetrics

INFO = PredictorInfo("0123456789abcdef", 1, "bicubic")
SOON = 60.0  # seconds; long enough for any machine


class Engine:
    """Answers each picture with its own number; it can be held, and breaks on the number 0."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.free = threading.Event()
        self.free.set()
        self.at_work = 0

    def forward(self, pixels: Pixels) -> Prediction:
        numbers = numbers_of(pixels)
        self.batches.append(numbers)
        self.at_work += 1
        assert self.at_work == 1, "one thread owns the engine"
        assert self.free.wait(SOON)
        self.at_work -= 1
        if 0 in numbers:
            raise RuntimeError("broken")
        embedding = np.array(numbers, np.float32)[:, None]  # [N, 1]
        return Prediction(embedding, embedding * np.float32(0.5), ("a",), INFO)


def pixels_of(numbers: list[int]) -> Pixels:
    return np.array(numbers, "<u4").view(np.uint8).reshape(len(numbers), 1, 1, 4)


def numbers_of(pixels: Pixels) -> list[int]:
    return [int(number) for number in np.ascontiguousarray(pixels).view("<u4").ravel()]


def answered(prediction: Prediction) -> list[int]:
    assert prediction.probabilities is not None
    np.testing.assert_array_equal(prediction.probabilities * 2, prediction.embedding)
    return [int(number) for number in prediction.embedding[:, 0]]


def open_batcher(engine: Engine, max_batch: int = 4, max_queue: int = 8) -> tuple[MicroBatcher, PredictorMetrics]:
    metrics = PredictorMetrics()
    return MicroBatcher(engine.forward, max_batch, max_queue, metrics), metrics


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), SOON))


def depth(metrics: PredictorMetrics) -> float | None:
    return metrics.registry.get_sample_value("doggos_queue_depth")


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110  # most of it is told to nobody
        await asyncio.sleep(0.001)


async def hold(engine: Engine, batcher: MicroBatcher, number: int = 1) -> "asyncio.Task[Prediction]":
    """Have the engine busy with one picture until `engine.free.set()`."""
    engine.free.clear()
    task = asyncio.create_task(batcher.submit(pixels_of([number]), Deadline.after(SOON)))
    await until(lambda: len(engine.batches) > 0)
    return task


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=25),
    max_batch=st.integers(1, 6),
    max_queue=st.integers(1, 20),
    leaving=st.sets(st.integers(0, 24)),
    yields=st.lists(st.integers(0, 3), min_size=25, max_size=25),
)
def test_every_request_gets_its_own_answer(
    sizes: list[int], max_batch: int, max_queue: int, leaving: set[int], yields: list[int]
) -> None:
    """Whatever the sizes, the order of arrival, a full queue, and callers that leave at any time."""

    async def test() -> None:
        engine = Engine()
        batcher, metrics = open_batcher(engine, max_batch, max_queue)
        tasks: list[tuple[list[int], asyncio.Task[Prediction]]] = []
        first = 1
        for position, size in enumerate(sizes):
            numbers = list(range(first, first + size))
            first += size
            tasks.append((numbers, asyncio.create_task(batcher.submit(pixels_of(numbers), Deadline.after(SOON)))))
            for _ in range(yields[position]):
                await asyncio.sleep(0)
            if position in leaving:
                tasks[position // 2][1].cancel()
            assert (depth(metrics) or 0) <= max(max_queue, max(sizes))
        for numbers, task in tasks:
            try:
                assert answered(await task) == numbers
            except asyncio.CancelledError:
                assert leaving
            except QueueFull:
                assert sum(sizes) > max_queue
        assert all(len(batch) <= max_batch for batch in engine.batches)
        computed = [number for batch in engine.batches for number in batch]
        assert len(set(computed)) == len(computed), "no picture is computed twice"
        assert depth(metrics) == 0
        await batcher.close()

    run(test)


def test_fires_at_once_when_idle_and_gathers_while_busy() -> None:
    async def test() -> None:
        engine = Engine()
        batcher, metrics = open_batcher(engine, max_batch=4)
        first = await hold(engine, batcher)
        assert engine.batches == [[1]], "alone, without waiting for company"
        others = [asyncio.create_task(batcher.submit(pixels_of([n]), Deadline.after(SOON))) for n in (2, 3, 4, 5, 6)]
        await until(lambda: depth(metrics) == 5)
        engine.free.set()
        assert [answered(await task) for task in (first, *others)] == [[1], [2], [3], [4], [5], [6]]
        assert engine.batches == [[1], [2, 3, 4, 5], [6]]
        assert metrics.registry.get_sample_value("doggos_batch_size_sum") == 6
        assert metrics.registry.get_sample_value("doggos_batch_size_count") == 3
        assert metrics.registry.get_sample_value("doggos_queue_wait_seconds_count") == 6

    run(test)


def test_a_request_larger_than_a_batch_is_cut_and_put_together() -> None:
    async def test() -> None:
        engine = Engine()
        batcher, _ = open_batcher(engine, max_batch=4, max_queue=2)
        numbers = list(range(1, 11))
        assert answered(await batcher.submit(pixels_of(numbers), Deadline.after(SOON))) == numbers
        assert [len(batch) for batch in engine.batches] == [4, 4, 2]

    run(test)


def test_a_full_queue_is_refused_and_frees_itself() -> None:
    async def test() -> None:
        engine = Engine()
        batcher, metrics = open_batcher(engine, max_queue=3)
        first = await hold(engine, batcher)
        waiting = asyncio.create_task(batcher.submit(pixels_of([2, 3]), Deadline.after(SOON)))
        await until(lambda: depth(metrics) == 2)
        with pytest.raises(QueueFull, match="2 pictures are waiting already, the queue takes 3"):
            await batcher.submit(pixels_of([4, 5]), Deadline.after(SOON))
        last = asyncio.create_task(batcher.submit(pixels_of([6]), Deadline.after(SOON)))
        await until(lambda: depth(metrics) == 3)
        engine.free.set()
        assert [answered(await task) for task in (first, waiting, last)] == [[1], [2, 3], [6]]
        assert depth(metrics) == 0

    run(test)


def test_a_caller_that_leaves_gives_its_place_back_at_once() -> None:
    async def test() -> None:
        engine = Engine()
        batcher, metrics = open_batcher(engine, max_queue=1)
        first = await hold(engine, batcher)
        leaving = asyncio.create_task(batcher.submit(pixels_of([2]), Deadline.after(SOON)))
        await until(lambda: depth(metrics) == 1)
        leaving.cancel()
        await until(leaving.done)
        assert depth(metrics) == 0
        staying = asyncio.create_task(batcher.submit(pixels_of([3]), Deadline.after(SOON)))
        await asyncio.sleep(0)
        engine.free.set()
        assert [answered(await task) for task in (first, staying)] == [[1], [3]]
        assert engine.batches == [[1], [3]], "2 was never computed"

    run(test)


def test_work_that_is_too_late_is_never_computed() -> None:
    async def test() -> None:
        engine = Engine()
        batcher, metrics = open_batcher(engine)
        first = await hold(engine, batcher)
        with pytest.raises(DeadlineExceeded):
            await batcher.submit(pixels_of([2]), Deadline.after(0.01))
        with pytest.raises(DeadlineExceeded):
            await batcher.submit(pixels_of([3]), Deadline.after(-1))
        late = asyncio.create_task(batcher.submit(pixels_of([4]), Deadline.after(0.02)))
        await asyncio.sleep(0)
        engine.free.set()
        time.sleep(0.05)  # noqa: ASYNC251  # the event loop is late itself: the answer and the deadline wait for it
        with pytest.raises(DeadlineExceeded):
            await late
        assert answered(await first) == [1]
        assert depth(metrics) == 0
        assert engine.batches == [[1]]

    run(test)


def test_the_rest_of_a_large_request_is_dropped_with_its_caller() -> None:
    async def test() -> None:
        engine = Engine()
        batcher, _ = open_batcher(engine, max_batch=2)
        engine.free.clear()
        large = asyncio.create_task(batcher.submit(pixels_of([1, 2, 3, 4, 5, 6]), Deadline.after(SOON)))
        await until(lambda: len(engine.batches) > 0)
        large.cancel()
        await until(large.done)
        engine.free.set()
        assert answered(await batcher.submit(pixels_of([7]), Deadline.after(SOON))) == [7]
        assert engine.batches == [[1, 2], [7]]

    run(test)


def test_an_engine_that_fails_fails_its_batch_only() -> None:
    async def test() -> None:
        engine = Engine()
        batcher, metrics = open_batcher(engine, max_batch=2)
        first = await hold(engine, batcher)
        numbers = ([0], [2], [3], [4])
        tasks = [asyncio.create_task(batcher.submit(pixels_of(list(n)), Deadline.after(SOON))) for n in numbers]
        await until(lambda: depth(metrics) == 4)
        engine.free.set()
        results = await asyncio.gather(first, *tasks, return_exceptions=True)
        assert [isinstance(result, ServiceError) for result in results] == [False, True, True, False, False]
        assert {str(result) for result in results[1:3]} == {"the engine failed"}
        assert answered(await batcher.submit(pixels_of([5]), Deadline.after(SOON))) == [5]

    run(test)


def test_an_engine_that_answers_for_fewer_pictures_is_not_believed() -> None:
    async def test() -> None:
        def forward(pixels: Pixels) -> Prediction:
            return Prediction(np.zeros((len(pixels) - 1, 1), np.float32), None, (), INFO)

        batcher = MicroBatcher(forward, 4, 8, PredictorMetrics())
        with pytest.raises(ServiceError, match="the engine failed"):
            await batcher.submit(pixels_of([1, 2]), Deadline.after(SOON))

    run(test)


def test_what_cannot_be_done_in_time_makes_room_for_what_can() -> None:
    async def test() -> None:
        engine, pace = Engine(), Pace()
        batcher = MicroBatcher(engine.forward, 4, 8, PredictorMetrics(), pace=pace)
        first = await hold(engine, batcher)
        late = asyncio.create_task(batcher.submit(pixels_of([2]), Deadline.after(SOON)))
        others = [asyncio.create_task(batcher.submit(pixels_of([n]), Deadline.after(9 * SOON))) for n in (3, 4, 5)]
        await asyncio.sleep(0)
        pace.learn(1, 2 * SOON)
        with pytest.raises(QueueFull, match="take longer than this request may"):
            await batcher.submit(pixels_of([6]), Deadline.after(SOON))
        pace.learn(3, 10 * SOON)
        engine.free.set()
        with pytest.raises(DeadlineExceeded):
            await late
        assert [answered(await task) for task in (first, *others)] == [[1], [3], [4], [5]]
        assert engine.batches == [[1], [3, 4], [5]], "three at a time would have been too slow for all of them"

    run(test)


def test_the_batch_that_is_computed_counts_as_waiting_does() -> None:
    async def test() -> None:
        engine, pace = Engine(), Pace()
        pace.learn(1, 0.8 * SOON)
        batcher = MicroBatcher(engine.forward, 4, 8, PredictorMetrics(), pace=pace)
        first = await hold(engine, batcher)
        second = asyncio.create_task(batcher.submit(pixels_of([2]), Deadline.after(9 * SOON)))
        await asyncio.sleep(0)
        with pytest.raises(QueueFull, match="take longer than this request may"):
            await batcher.submit(pixels_of([3]), Deadline.after(SOON))
        third = asyncio.create_task(batcher.submit(pixels_of([4]), Deadline.after(2 * SOON)))
        await asyncio.sleep(0)
        engine.free.set()
        assert [answered(await task) for task in (first, second, third)] == [[1], [2], [4]]

    run(test)


def test_a_batch_that_failed_early_counts_no_longer() -> None:
    async def test() -> None:
        engine, pace = Engine(), Pace()
        pace.learn(1, 0.8 * SOON)
        batcher = MicroBatcher(engine.forward, 4, 8, PredictorMetrics(), pace=pace)
        with pytest.raises(ServiceError, match="the engine failed"):
            await batcher.submit(pixels_of([0]), Deadline.after(SOON))
        both = await asyncio.gather(*(batcher.submit(pixels_of([n]), Deadline.after(SOON)) for n in (1, 2)))
        assert [answered(prediction) for prediction in both] == [[1], [2]]

    run(test)


def test_a_slow_past_does_not_keep_a_lone_request_from_being_tried() -> None:
    async def test() -> None:
        engine, pace = Engine(), Pace()
        pace.learn(1, 2 * SOON)
        batcher = MicroBatcher(engine.forward, 4, 8, PredictorMetrics(), pace=pace)
        for number in range(1, 20):
            assert answered(await batcher.submit(pixels_of([number]), Deadline.after(SOON))) == [number]
        assert pace.predict(1) < SOON, "and so it is found that the engine is fast"

    run(test)


@settings(max_examples=100, deadline=None)
@given(
    forwards=st.lists(st.tuples(st.integers(1, 9), st.floats(0.001, 5)), max_size=60),
    pictures=st.integers(1, 40),
    max_batch=st.integers(1, 9),
)
def test_the_pace_lies_within_what_was_measured(
    forwards: list[tuple[int, float]], pictures: int, max_batch: int
) -> None:
    pace = Pace()
    for size, seconds in forwards:
        pace.learn(size, seconds)
    below = [seconds for size, seconds in forwards if size <= pictures]
    assert pace.predict(pictures) <= max(below, default=0.0)
    assert pace.predict(pictures) >= min(below, default=0.0)
    assert pace.predict(pictures) <= pace.predict(pictures + 1), "more pictures never take less"
    assert pace.predict_queue(pictures, max_batch) <= pace.predict_queue(pictures + max_batch, max_batch)


class Patient(Turns):
    """Would wait for nearly as long as a test may take, on any machine."""

    def seconds(self) -> float:
        return 0.9 * SOON


def test_halves_of_those_who_ask_again_take_turns() -> None:
    """Eight callers, who come back one after the other: not one alone, and then seven."""

    async def test() -> None:
        asked, sizes = 48, []

        def forward(pixels: Pixels) -> Prediction:
            """Until the other half has asked again."""
            sizes.append(len(pixels))
            others = min(8 - len(pixels), asked - sum(sizes))
            end = time.monotonic() + SOON / 4
            while batcher._queued < others:
                assert time.monotonic() < end, sizes
                time.sleep(0.001)
            return Engine().forward(pixels)

        batcher = MicroBatcher(forward, 8, 16, PredictorMetrics())
        batcher._turns = Patient()

        async def keep_asking(number: int) -> None:
            for _ in range(asked // 8):
                assert answered(await batcher.submit(pixels_of([number]), Deadline.after(SOON))) == [number]
                for _ in range(number):
                    await asyncio.sleep(0)

        await asyncio.gather(*(keep_asking(number) for number in range(1, 9)))
        assert sizes == [8] + 10 * [4]

    run(test)


def test_who_asks_alone_is_never_kept_waiting() -> None:
    async def test() -> None:
        batcher, _ = open_batcher(Engine())
        batcher._turns = Patient()
        for number in range(1, 5):
            assert answered(await batcher.submit(pixels_of([number]), Deadline.after(SOON))) == [number]

    run(test)


def test_callers_who_do_not_come_back_are_not_waited_for_again() -> None:
    async def test() -> None:
        batcher, _ = open_batcher(Engine())
        batcher._turns = Turns(clock=lambda: 0.0)  # at once after the last batch, on any machine
        await asyncio.gather(*(batcher.submit(pixels_of([n]), Deadline.after(SOON)) for n in range(1, 5)))
        assert batcher._turns.seconds() > 0
        assert answered(await batcher.submit(pixels_of([9]), Deadline.after(SOON))) == [9]
        assert batcher._turns.seconds() == 0

    run(test)


@pytest.mark.parametrize("alone", [True, False])
def test_nobody_is_late_because_others_are_waited_for(alone: bool) -> None:
    """Neither who has little time, nor who waits already when someone with little time comes."""

    async def test() -> None:
        pace = Pace()
        for _ in range(8):
            pace.learn(8, SOON / 8)
        engine = Engine()
        batcher = MicroBatcher(engine.forward, 8, 16, PredictorMetrics(), pace=pace)
        batcher._turns = Patient()
        await asyncio.gather(*(batcher.submit(pixels_of([n]), Deadline.after(2 * SOON)) for n in range(1, 9)))
        assert [len(batch) for batch in engine.batches] == [8]
        asked = [] if alone else [asyncio.create_task(batcher.submit(pixels_of([9]), Deadline.after(2 * SOON)))]
        for _ in range(5):
            await asyncio.sleep(0)
        assert len(engine.batches) == 1, "who has time waits for three others"
        asked.append(asyncio.create_task(batcher.submit(pixels_of([10]), Deadline.after(SOON / 2))))
        await asyncio.gather(*asked)
        assert engine.batches[1:] == [[10] if alone else [9, 10]]

    run(test)
