"""Looking pods up goes on whatever happens, and ends whenever it is told to."""

import asyncio
from typing import Any

import pytest

from transformer import replicas
from transformer.replicas import Replicas

NOBODY = "ipv4:127.0.0.1:9"


@pytest.mark.parametrize("turns", range(5))
def test_it_can_be_closed_at_any_moment(turns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also just after a failure: `asyncio.wait_for` may lose a cancellation then."""
    monkeypatch.setattr(replicas, "LEAST_SECONDS", 0.0)

    async def open_and_close() -> None:
        pods = Replicas(NOBODY)
        await asyncio.sleep(0.05)  # it waits for a failure now
        pods.note_failure()
        for _ in range(turns):
            await asyncio.sleep(0)
        async with asyncio.timeout(10):
            await pods.close()

    asyncio.run(open_and_close())


def test_a_look_up_that_fails_is_not_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replicas, "LEAST_SECONDS", 0.0)
    monkeypatch.setattr(replicas, "LOOK_UP_SECONDS", 0.01)
    opened, again = 0, asyncio.Event()

    class Failing:
        def unary_unary(self, *_: Any, **__: Any) -> None:
            pass

        async def channel_ready(self) -> None:
            raise RuntimeError("the watch failed")

        async def close(self) -> None:
            pass

    def open_channel(_: Any) -> Failing:
        nonlocal opened
        opened += 1
        if opened == 4:
            again.set()
        return Failing()

    monkeypatch.setattr(Replicas, "_open", open_channel)

    async def look_up() -> None:
        pods = Replicas(NOBODY)
        async with asyncio.timeout(10):
            await again.wait()
            await pods.close()

    asyncio.run(look_up())
