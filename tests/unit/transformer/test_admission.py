"""The door: an overload hardly gets past it, and what can be answered is let in."""

import asyncio
import io
from collections import deque
from contextlib import AbstractContextManager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from contract import Pixels, Prediction
from serving.call import Call
from serving.deadline import Deadline
from serving.errors import QueueFull
from serving.metrics import TransformerMetrics
from tests.stand_ins import SIZE, classify, draw
from tests.unit.transformer.test_search import OneMatch
from transformer.admission import FEWEST, Admission
from transformer.answer import Query
from transformer.decode_pool import MAX_LARGE, DecodeMemory, DecodePool
from transformer.limits import PictureLimits
from transformer.pipeline import Pipeline


class World:
    """A door in front of a predictor that answers at a rate of its own and lets `room` wait."""

    def __init__(self, capacity: float, room: int = 128) -> None:
        self.now, self.capacity, self.room = 0.0, capacity, room
        self.door = Admission(lambda: self.now)
        self.queue: deque[AbstractContextManager[None]] = deque()
        self.turn = 0.0

    def offer(self, rate: float, seconds: float) -> tuple[int, int, int]:
        """Requests at `rate`: how many came, got past the door and were answered."""
        asked = passed = answered = 0
        for _ in range(int(rate * seconds)):
            self.now += 1 / rate
            self.turn = min(self.turn + self.capacity / rate, 8)  # a batch
            while self.queue and self.turn >= 1:
                self.turn -= 1
                answered += 1
                self.queue.popleft().__exit__(None, None, None)
                self.door.grow(1)
            asked += 1
            if not self.door.has_room():
                continue
            inside = self.door.enter(1)
            passed += 1
            if len(self.queue) < self.room:
                inside.__enter__()
                self.queue.append(inside)
            else:
                with pytest.raises(QueueFull), inside:
                    raise QueueFull("full")
        return asked, passed, answered


@settings(max_examples=10, deadline=None)
@given(capacity=st.floats(20, 100), factor=st.floats(2, 10))
def test_an_overload_stays_outside_and_the_predictor_busy(capacity: float, factor: float) -> None:
    world = World(capacity)
    world.offer(factor * capacity, 10)
    _, passed, answered = world.offer(factor * capacity, 10)
    assert answered >= 0.95 * capacity * 10
    assert passed <= 1.1 * capacity * 10 + 20
    asked, passed, _ = world.offer(0.9 * capacity, 30)
    assert passed >= 0.95 * asked, "and when it is over, it is forgotten"


def test_nothing_is_refused_before_a_queue_was_full() -> None:
    asked, passed, _ = World(50, room=10_000).offer(60, 60)
    assert passed == asked


def test_new_predictors_are_found() -> None:
    world = World(25)
    world.offer(250, 20)
    world.capacity, world.room = 100, 512
    world.offer(250, 20)
    assert world.offer(250, 10)[2] >= 0.95 * 100 * 10


def test_a_few_are_always_let_in() -> None:
    door = Admission(lambda: 0.0)
    with pytest.raises(QueueFull), door.enter(1):
        raise QueueFull("full")
    inside = [door.enter(1) for _ in range(FEWEST)]
    for one in inside:
        assert door.has_room()
        one.__enter__()
    assert not door.has_room()


def test_large_requests_are_let_in_together_again() -> None:
    """Each has more pictures than the least limit, so that one alone is all that is inside."""
    door = Admission(lambda: 0.0)
    with pytest.raises(QueueFull), door.enter(32):
        raise QueueFull("full")
    for _ in range(10):
        with door.enter(32):
            pass
        door.grow(32)
    with door.enter(32):
        assert door.has_room()


def test_quiet_hours_do_not_open_the_door_for_a_wave() -> None:
    world = World(25)
    world.offer(250, 20)
    world.offer(5, 600)
    _, passed, _ = world.offer(1000, 0.5)
    assert passed <= world.room + 0.5 * 25 + 1


def test_no_picture_is_fetched_for_a_request_that_is_refused() -> None:
    fetched = 0

    class Full:
        async def predict(self, pixels: Pixels, call: Call) -> Prediction:
            await asyncio.sleep(0.5)  # long enough for many to be inside
            raise QueueFull("the predictor's queue is full")

    async def fetch(url: str, deadline: Deadline) -> bytes:
        nonlocal fetched
        fetched += 1
        return draw("red")

    async def ask_twice() -> None:
        pool = DecodePool("decode", 1, 1000, DecodeMemory(0))
        pipeline = Pipeline(OneMatch(), Full(), fetch, pool, SIZE, PictureLimits(), TransformerMetrics())

        async def ask() -> object:
            try:
                return await pipeline.answer([Query("http://pictures/1.jpg")], Call(Deadline.after(30)))
            except QueueFull as error:
                return error

        assert all(isinstance(one, QueueFull) for one in await asyncio.gather(*(ask() for _ in range(100))))
        assert fetched == 100, "nothing was known of a full queue"
        more = []
        # One after the other, as callers come: all at once they would be at their downloads at once.
        for _ in range(200):
            more.append(asyncio.create_task(ask()))
            await asyncio.sleep(0.001)
        assert all(isinstance(one, QueueFull) for one in await asyncio.gather(*more))
        assert fetched < 250
        pipeline.close()

    asyncio.run(ask_twice())


class FullOnce:
    """A predictor whose queue is full at the first request."""

    refused = False

    async def predict(self, pixels: Pixels, call: Call) -> Prediction:
        await asyncio.sleep(0)
        if not self.refused:
            self.refused = True
            raise QueueFull("the predictor's queue is full")
        return classify(pixels)


def test_downloads_that_stall_keep_nobody_out() -> None:
    """After a queue was full, and as many as are let in then wait for their pictures' host."""

    async def fetch(url: str, deadline: Deadline) -> bytes:
        await asyncio.sleep(3600 if "stalls" in url else 0)
        return draw("red")

    async def ask_beside_stalled() -> None:
        pool = DecodePool("decode", 1, 1000, DecodeMemory(0))
        pipeline = Pipeline(OneMatch(), FullOnce(), fetch, pool, SIZE, PictureLimits(), TransformerMetrics())

        async def ask(name: str) -> object:
            return await pipeline.answer([Query(f"http://pictures/{name}.jpg")], Call(Deadline.after(30)))

        with pytest.raises(QueueFull):
            await ask("first")
        stalled = [asyncio.create_task(ask("stalls")) for _ in range(2 * FEWEST)]
        await asyncio.sleep(0)
        assert await ask("second")
        for task in stalled:
            task.cancel()
        await asyncio.gather(*stalled, return_exceptions=True)
        pipeline.close()

    asyncio.run(ask_beside_stalled())


def test_large_pictures_that_wait_for_memory_keep_nobody_out() -> None:
    """Not even when there are too many of them, after a queue was full: small ones pass them."""

    async def fetch(url: str, deadline: Deadline) -> bytes:
        raise NotImplementedError

    async def ask_beside_large() -> None:
        memory, large = DecodeMemory(2**30), io.BytesIO()
        Image.new("RGB", (2000, 2000)).save(large, "WEBP", lossless=True, method=0)
        await memory.take(2**30, Deadline.after(30))
        pool = DecodePool("decode", 1, 1000, memory)
        pipeline = Pipeline(OneMatch(), FullOnce(), fetch, pool, SIZE, PictureLimits(), TransformerMetrics())

        async def ask(picture: bytes) -> object:
            return await pipeline.answer([Query(picture)], Call(Deadline.after(30)))

        waiting = [asyncio.create_task(ask(large.getvalue())) for _ in range(MAX_LARGE + 1)]
        done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        assert isinstance(done.pop().exception(), QueueFull)
        with pytest.raises(QueueFull, match="predictor"):
            await ask(draw("red"))
        assert await ask(draw("red"))
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        pipeline.close()

    asyncio.run(ask_beside_large())
