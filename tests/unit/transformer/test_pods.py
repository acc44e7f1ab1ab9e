"""Which pod a call goes to."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

import pytest

from transformer import pods, renewal
from transformer.pods import Pods

NAME = "predictor.test"


class Names:
    """What a name server knows; a test changes it."""

    def __init__(self, *addresses: str) -> None:
        self.addresses: Sequence[str] = addresses
        self.asked = 0

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        assert (host, port) == (NAME, 8080)
        self.asked += 1
        if not self.addresses:
            raise OSError("no such name")
        return self.addresses


def run(names: Names, use: Callable[[Pods], Awaitable[None]]) -> None:
    async def open_and_use() -> None:
        opened = Pods([(NAME, 8080)], names)
        try:
            async with asyncio.timeout(20):
                await use(opened)
        finally:
            await opened.close()

    asyncio.run(open_and_use())


async def choose(opened: Pods, times: int) -> Counter[str]:
    return Counter([await opened.choose() for _ in range(times)])


def test_all_take_turns_and_the_name_is_looked_up_once() -> None:
    names = Names("10.0.0.1", "10.0.0.2", "fd00::3")

    async def use(opened: Pods) -> None:
        shares = await asyncio.gather(*(choose(opened, 4) for _ in range(3)))
        assert sum(shares, Counter()) == {"10.0.0.1:8080": 4, "10.0.0.2:8080": 4, "[fd00::3]:8080": 4}
        assert names.asked == 1

    run(names, use)


def test_one_that_failed_is_left_out_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    async def use(opened: Pods) -> None:
        opened.note_failure("10.0.0.1:8080")
        assert await choose(opened, 5) == {"10.0.0.2:8080": 5}
        opened.note_failure("10.0.0.2:8080")
        assert await choose(opened, 4) == {"10.0.0.1:8080": 2, "10.0.0.2:8080": 2}, "better than none"
        monkeypatch.setattr(pods, "SHUN_SECONDS", 0.0)
        opened.note_failure("10.0.0.1:8080")
        opened.note_failure("10.0.0.2:8080")
        assert len(await choose(opened, 4)) == 2, "the moment is over"

    run(Names("10.0.0.1", "10.0.0.2"), use)


def test_a_failure_has_the_name_looked_up_and_the_last_known_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renewal, "LEAST_SECONDS", 0.0)
    names = Names("10.0.0.1")

    async def use(opened: Pods) -> None:
        assert await choose(opened, 2) == {"10.0.0.1:8080": 2}
        names.addresses = ()
        opened.note_failure("10.0.0.1:8080")
        while names.asked < 2:  # noqa: ASYNC110  # there is no event for it
            await asyncio.sleep(0.01)
        assert await opened.choose() == "10.0.0.1:8080"
        names.addresses = ("10.0.0.2",)
        opened.note_failure("10.0.0.1:8080")
        while await opened.choose() != "10.0.0.2:8080":  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    run(names, use)


def test_a_name_that_nobody_knows_is_asked_for_again() -> None:
    names = Names()

    async def use(opened: Pods) -> None:
        with pytest.raises(OSError, match="no such name"):
            await opened.choose()
        names.addresses = ("10.0.0.1",)
        assert await opened.choose() == "10.0.0.1:8080"

    run(names, use)
