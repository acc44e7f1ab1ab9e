"""Looking pods up goes on whatever happens, and ends whenever it is told to."""

import asyncio

import pytest

from transformer import renewal
from transformer.renewal import Renewal


@pytest.mark.parametrize("turns", range(5))
def test_it_can_be_closed_at_any_moment(turns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also just after a failure: `asyncio.wait_for` may lose a cancellation then."""
    monkeypatch.setattr(renewal, "LEAST_SECONDS", 0.0)

    async def look_up() -> None:
        await asyncio.sleep(60)

    async def open_and_close() -> None:
        renewed = Renewal(look_up)
        await asyncio.sleep(0.05)  # it waits for a failure now
        renewed.note_failure()
        for _ in range(turns):
            await asyncio.sleep(0)
        async with asyncio.timeout(10):
            await renewed.close()

    asyncio.run(open_and_close())


def test_a_look_up_that_fails_is_not_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renewal, "LEAST_SECONDS", 0.0)
    monkeypatch.setattr(renewal, "LOOK_UP_SECONDS", 0.01)
    count, again = 0, asyncio.Event()

    async def look_up() -> None:
        nonlocal count
        count += 1
        if count == 4:
            again.set()
        raise RuntimeError("the name server answered nonsense")

    async def run() -> None:
        renewed = Renewal(look_up)
        async with asyncio.timeout(10):
            await again.wait()
            await renewed.close()

    asyncio.run(run())
