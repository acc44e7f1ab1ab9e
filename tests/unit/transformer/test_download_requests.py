"""What is sent to hosts, how often, and for how long."""

import asyncio
from ipaddress import ip_network

import pytest

from serving.deadline import Deadline
from serving.errors import DeadlineExceeded, FetchFailed, NotReady, QueueFull
from serving.held import ByteBudget
from tests.picture_host import PictureHost, answer
from tests.unit.transformer.fetching import PATIENT, PICTURE, Run, both_loops, download_from, fail, loopback
from transformer.download import Downloader, FetchLimits


@both_loops
def test_redirects_are_followed_up_to_the_limit(run: Run) -> None:
    async def main() -> None:
        async with download_from() as (host, downloader):
            path = "/dog.jpg"
            for status in (301, 307, 308):
                path = f"/redirect/{status}/{path}"
            assert await downloader.fetch(host.url(path), Deadline.after(20)) == PICTURE
            assert "more than 3 times" in str(await fail(downloader, host.url(f"/redirect/303/{path}")))

    run(main())


def test_only_what_is_needed_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with PictureHost() as proxy, download_from(resolve=loopback) as (host, downloader):
            monkeypatch.setenv("http_proxy", proxy.url(""))
            host.pictures["/dog.jpg?a=%2F"] = PICTURE
            for path in ("/cookie/dog.jpg", "/redirect/302//cookie/dog.jpg", "/dog.jpg?a=%2F#b"):
                url = host.url(path, host="dogs.test")  # cookies belong to names
                assert await downloader.fetch(url, Deadline.after(20)) == PICTURE
            assert [sorted(headers) for _, headers in host.requests] == [
                ["Accept", "Accept-Encoding", "Host", "User-Agent"]
            ] * 4
            assert {headers["User-Agent"] for _, headers in host.requests} == {"doggos/0.1"}
            assert {headers["Accept-Encoding"] for _, headers in host.requests} == {"identity"}
            assert host.requests[-1][0] == "/dog.jpg?a=%2F"
            assert (proxy.connections, host.connections) == (0, 1)

    asyncio.run(main())


@both_loops
def test_the_requests_own_deadline_is_kept(run: Run) -> None:
    async def main() -> None:
        async with download_from() as (host, downloader):
            assert isinstance(await fail(downloader, host.url("/dog.jpg"), seconds=-1), DeadlineExceeded)
            assert isinstance(await fail(downloader, "data:image/png,a", seconds=-1), DeadlineExceeded)
            assert host.connections == 0
            assert isinstance(await fail(downloader, host.url("/stall"), seconds=0.2), FetchFailed)

    run(main())


@both_loops
@pytest.mark.parametrize("path", ["/silent", "/stall"])
def test_a_pause_or_a_handshake_is_cut_off_long_before_the_total_time(path: str, run: Run) -> None:
    async def main() -> None:
        limits = FetchLimits(read_timeout=0.2, connect_timeout=0.2, total_timeout=300)
        async with download_from(limits) as (host, downloader), asyncio.timeout(30):
            assert "too slow" in str(await fail(downloader, host.url(path), seconds=300))
            no_tls = host.url(path).replace("http", "https")  # the host waits for more, and so do we
            assert "too slow" in str(await fail(downloader, no_tls, seconds=300))

    run(main())


def test_waiting_for_a_connection_is_not_blamed_on_the_host() -> None:
    async def main() -> None:
        limits = FetchLimits(connections=1, total_timeout=0.3)
        async with download_from(limits) as (host, downloader), downloader._slots:
            assert isinstance(await fail(downloader, host.url("/dog.jpg")), QueueFull)

    asyncio.run(main())


@both_loops
def test_nothing_listens(run: Run) -> None:
    async def main() -> None:
        async with download_from() as (_, downloader):
            assert "cannot be reached" in str(await fail(downloader, "http://127.0.0.1:1/"))

    run(main())


@pytest.mark.parametrize("failure", [OSError(), UnicodeError(), None])
@both_loops
def test_nothing_has_that_name(failure: Exception | None, run: Run) -> None:
    async def resolve(host: str, port: int) -> list[str]:
        if failure:
            raise failure
        return []

    async def main() -> None:
        async with download_from(resolve=resolve) as (_, downloader):
            assert "cannot be resolved" in str(await fail(downloader, "http://unknown.test/"))

    run(main())


def test_a_closed_downloader_ends_what_is_under_way_and_takes_nothing_more() -> None:
    async def main() -> None:
        async with download_from() as (host, downloader):
            under_way = asyncio.create_task(fail(downloader, host.url("/stall")))
            beginning = asyncio.create_task(fail(downloader, host.url("/silent")))
            await asyncio.sleep(0)
            await downloader.close()
            assert isinstance(await under_way, NotReady)
            assert isinstance(await beginning, NotReady)
            assert isinstance(await fail(downloader, host.url("/dog.jpg")), NotReady)

    asyncio.run(main())


def test_downloads_together_hold_no_more_than_the_budget() -> None:
    async def main() -> None:
        held = ByteBudget(2 * len(PICTURE) + 1000)
        host = PictureHost({"/dog.jpg": PICTURE})
        host.answers["/almost"] = answer(PICTURE)[:-1]
        downloader = Downloader(PATIENT, allow_networks=[ip_network("127.0.0.1/32")], held=held)
        async with host, asyncio.timeout(30):
            first = await downloader.fetch(host.url("/dog.jpg"), Deadline.after(20))
            same = [downloader.fetch(host.url("/gzip/dog.jpg"), Deadline.after(20)) for _ in range(5)]
            second = await asyncio.gather(*same)  # one download, so counted once
            assert held.taken == 2 * len(PICTURE)
            assert isinstance(await fail(downloader, host.url("/chunked/dog.jpg")), QueueFull)
            assert held.taken == 2 * len(PICTURE)
            del first
            for path in ("/almost", "/cut-gzip/dog.jpg", "/not-gzip/dog.jpg", "/endless"):
                await fail(downloader, host.url(path))
            stalled = asyncio.create_task(downloader.fetch(host.url("/stall"), Deadline.after(20)))
            for _ in range(1000):
                await asyncio.sleep(0.01 if held.taken == len(PICTURE) else 0)
            assert held.taken == len(PICTURE) + 3
            stalled.cancel()
            await asyncio.wait([stalled])
            assert await downloader.fetch(host.url("/deflate/dog.jpg"), Deadline.after(20)) == PICTURE
            del second, same
            await asyncio.sleep(0)  # the loop holds what was awaited last
            assert held.taken == 0
            await downloader.close()

    asyncio.run(main())
