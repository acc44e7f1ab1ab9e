"""Which pod a call goes to."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

import pytest

from transformer import pods, renewal
from transformer.pods import Pod, Pods

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
    return Counter([(await opened.choose()).address for _ in range(times)])


def pod(address: str) -> Pod:
    return Pod(address, f"{NAME}:8080")


def test_all_take_turns_and_the_name_is_looked_up_once() -> None:
    names = Names("10.0.0.1", "10.0.0.2", "fd00::3")

    async def use(opened: Pods) -> None:
        shares = await asyncio.gather(*(choose(opened, 4) for _ in range(3)))
        assert sum(shares, Counter()) == {"10.0.0.1:8080": 4, "10.0.0.2:8080": 4, "[fd00::3]:8080": 4}
        assert names.asked == 1
        assert (await opened.choose()).authority == f"{NAME}:8080"

    run(names, use)


def test_one_that_failed_is_left_out_until_it_can_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pods, "SHUN_SECONDS", 0.05)
    there: set[str] = set()

    async def is_there(pod: Pod) -> bool:
        return pod.address in there

    monkeypatch.setattr(pods, "_is_there", is_there)

    async def use(opened: Pods) -> None:
        await opened.choose()
        opened.note_failure(pod("10.0.0.1:8080"))
        await asyncio.sleep(0.2)
        assert await choose(opened, 5) == {"10.0.0.2:8080": 5}
        opened.note_failure(pod("10.0.0.2:8080"))
        assert await choose(opened, 4) == {"10.0.0.1:8080": 2, "10.0.0.2:8080": 2}, "better than none"
        there.add("10.0.0.1:8080")
        while await choose(opened, 4) != {"10.0.0.1:8080": 4}:  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    run(Names("10.0.0.1", "10.0.0.2"), use)


def test_whether_a_pod_is_there_is_found_out_by_a_connection() -> None:
    async def find_out() -> None:
        server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        assert await pods._is_there(pod(address))
        server.close()
        assert not await pods._is_there(pod(address))

    asyncio.run(find_out())


def test_a_failure_has_the_name_looked_up_and_the_last_known_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renewal, "LEAST_SECONDS", 0.0)
    names = Names("10.0.0.1")

    async def use(opened: Pods) -> None:
        assert await choose(opened, 2) == {"10.0.0.1:8080": 2}
        names.addresses = ()
        opened.note_failure(pod("10.0.0.1:8080"))
        while names.asked < 2:  # noqa: ASYNC110  # there is no event for it
            await asyncio.sleep(0.01)
        assert await choose(opened, 1) == {"10.0.0.1:8080": 1}
        names.addresses = ("10.0.0.2",)
        opened.note_failure(pod("10.0.0.1:8080"))
        while await choose(opened, 1) != {"10.0.0.2:8080": 1}:  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    run(names, use)


def test_a_name_that_nobody_knows_is_asked_for_again() -> None:
    names = Names()

    async def use(opened: Pods) -> None:
        with pytest.raises(OSError, match="no host of the predictor"):
            await opened.choose()
        names.addresses = ("10.0.0.1",)
        assert await choose(opened, 1) == {"10.0.0.1:8080": 1}

    run(names, use)
