"""Hosts that are slow, lying, huge or broken."""

import asyncio
import random
import tracemalloc
from collections import Counter

import pytest

from serving.deadline import Deadline
from serving.errors import FetchFailed, ServiceError, TooLarge
from tests.picture_host import WRAPPED, answer, gzip_bomb
from tests.unit.transformer.fetching import PICTURE, QUICK, Run, both_loops, download_from, fail
from transformer.download import FetchLimits

BAD_HOSTS = {
    "/missing.jpg": "answered 404",
    "/status/500": "answered 500",
    "/status/101": "",
    "/close": "broke off",
    "/reset": "broke off",
    "/short": "broke off",
    "/garbage": "proper HTTP",
    "/endless-head": "proper HTTP",
    "/endless-line": "proper HTTP",
    "/endless-continue": "proper HTTP",
    "/endless-hints": "proper HTTP",
    "/brotli/dog.jpg": "compression that was not asked for",
    "/gzip-gzip/dog.jpg": "compression that was not asked for",
    "/cut-gzip/dog.jpg": "broken compression",
    "/two-gzips/dog.jpg": "broken compression",
    "/not-gzip/dog.jpg": "broken compression",
    "/redirect/302/": "redirected more than 3 times",
    "/redirect/302/file:///etc/passwd": "not an http or https URL",
    "/redirect/302/data:image/png;base64,AAAA": "not an http or https URL",
    "/redirect/302/http://user@127.0.0.1/": "not an http or https URL",
    "/redirect/302/http://[::1": "not an http or https URL",
    "/redirect/300//dog.jpg": "answered 300",
}


@pytest.mark.parametrize("path", BAD_HOSTS)
@both_loops
def test_a_bad_host_is_said_to_be_one(path: str, run: Run) -> None:
    async def main() -> None:
        async with download_from() as (host, downloader):
            error = await fail(downloader, host.url(path))
            assert (type(error), BAD_HOSTS[path] in str(error)) == (FetchFailed, True), error
            assert await downloader.fetch(host.url("/dog.jpg"), Deadline.after(20)) == PICTURE

    run(main())


@both_loops
@pytest.mark.parametrize("path", ["/silent", "/stall", "/drip", "/drip-head", "/redirect/302//drip"])
def test_a_slow_host_is_cut_off(path: str, run: Run) -> None:
    async def main() -> None:
        async with download_from(QUICK) as (host, downloader):
            error = await fail(downloader, host.url(path))
            assert (type(error), str(error)) == (FetchFailed, "the picture's host was too slow")

    run(main())


@pytest.mark.parametrize("path", ["/huge", "/endless", "/endless-until-close", "/endless-nothing", "/bomb", "/over"])
@both_loops
def test_more_bytes_than_allowed_are_not_read(path: str, run: Run) -> None:
    async def main() -> None:
        limits = FetchLimits(max_bytes=1 << 20, total_timeout=20)
        async with download_from(limits) as (host, downloader):
            host.answers["/bomb"] = answer(gzip_bomb(1 << 26), "Content-Encoding: gzip")
            host.answers["/over"] = WRAPPED["gzip"](bytes((1 << 20) + 1))
            tracemalloc.start()
            assert isinstance(await fail(downloader, host.url(path)), TooLarge)
            assert tracemalloc.get_traced_memory()[1] < 12 << 20
            tracemalloc.stop()

    run(main())


@pytest.mark.parametrize("mode", ["", "/chunked", "/gzip", "/deflate", "/cookie"])
def test_a_picture_of_exactly_the_limit_arrives_whole(mode: str) -> None:
    async def main() -> None:
        async with download_from(FetchLimits(max_bytes=1 << 21)) as (host, downloader):
            host.pictures["/a"], host.pictures["/b"] = bytes(1 << 21), bytes((1 << 21) + 1)
            assert await downloader.fetch(host.url(mode + "/a"), Deadline.after(20)) == host.pictures["/a"]
            assert isinstance(await fail(downloader, host.url(mode + "/b")), TooLarge)

    asyncio.run(main())


def test_an_answer_without_a_length_ends_with_the_connection() -> None:
    async def main() -> None:
        async with download_from() as (host, downloader):
            assert await downloader.fetch(host.url("/until-close"), Deadline.after(20)) == b"abc"

    asyncio.run(main())


@both_loops
def test_no_answer_at_all_causes_any_other_error(run: Run) -> None:
    """Valid answers with random damage."""
    chance = random.Random(2)
    valid = [wrap(PICTURE[:300]) for wrap in WRAPPED.values()] + [
        answer(b"", "Location: http://127.0.0.1:1/x", status="302 Found"),
        answer(b"abc", "Connection: keep-alive, upgrade", "Upgrade: websocket", status="101 Switching"),
        b"HTTP/1.1 100 Continue\r\n\r\n" + answer(b"abc"),
    ]

    async def main() -> None:
        outcomes: Counter[str] = Counter()
        async with download_from(QUICK) as (host, downloader):
            for number in range(400):
                host.answers[f"/{number}"] = _damage(chance, chance.choice(valid))
                try:
                    await downloader.fetch(host.url(f"/{number}"), Deadline.after(20))
                    outcomes["read"] += 1
                except ServiceError as error:
                    outcomes[str(error)] += 1
        assert len(outcomes) > 5

    run(main())


def _damage(chance: random.Random, sent: bytes) -> bytes:
    pieces = [
        b"\r\n",
        b"\n",
        b"\0",
        b"\xff",
        b":",
        b"-1",
        b"9" * 30,
        b"Transfer-Encoding: gzip, chunked\r\n",
        b"\r\n\r\n",
    ]
    for _ in range(chance.randint(1, 3)):
        head = sent.find(b"\r\n\r\n") + 4
        at = chance.randrange(head if head and chance.random() < 0.8 else len(sent) + 1)
        sent = sent[:at] + chance.choice(pieces) + sent[at + chance.choice([0, 0, 1, 5]) :]
    return sent
