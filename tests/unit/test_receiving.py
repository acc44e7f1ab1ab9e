"""Turns to receive a message: who has one and sends nothing."""

import asyncio
import contextlib

import pytest

from serving.errors import BodyTooSlow
from serving.receiving import Turns


async def _stall(turns: Turns) -> None:
    async with turns.take():
        await asyncio.sleep(3600)


def test_a_place_is_given_up_when_others_wait() -> None:
    async def main() -> None:
        turns = Turns(2, 3600, 0.01)
        stalled = [asyncio.create_task(_stall(turns)) for _ in range(2)]
        await asyncio.sleep(0.1)
        assert not any(task.done() for task in stalled), "as long as nobody waits, there is time"
        stalled += [asyncio.create_task(_stall(turns)) for _ in range(10)]
        await asyncio.sleep(0)
        async with asyncio.timeout(60), turns.take():
            for task in stalled[:10]:
                with pytest.raises(BodyTooSlow):
                    await task
        for task in stalled[10:]:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, BodyTooSlow):
                await task
        async with turns.take(), turns.take():
            pass

    asyncio.run(main())


def test_a_turn_ends_with_its_time() -> None:
    async def main() -> None:
        turns = Turns(1, 0.01, 3600)
        with pytest.raises(BodyTooSlow):
            await _stall(turns)
        async with turns.take():
            pass

    asyncio.run(main())
