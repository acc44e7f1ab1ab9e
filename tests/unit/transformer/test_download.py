"""No URL, name, redirect or resolver gets a connection to an address that is refused."""

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from ipaddress import ip_network

import aiohappyeyeballs
import aiohttp
import pytest
from yarl import URL

from serving.deadline import Deadline
from serving.errors import AddressRefused, FetchFailed, ServiceError
from tests.picture_host import PictureHost
from tests.unit.transformer.urls import GOOD, HOSTILE, NAMES, REFUSED
from transformer.address_guard import Network
from transformer.connector import CheckedResolver
from transformer.download import Downloader, FetchLimits, Resolve

Addresses = list[str]
PICTURE = b"a picture"


async def resolve(host: str, port: int) -> Addresses:
    """As the system does: known names, and the odd spellings of addresses that inet_aton takes."""
    if addresses := NAMES.get(host.removesuffix(".")):
        return addresses
    return [socket.inet_ntoa(socket.inet_aton(host))]  # an OSError for other names


@asynccontextmanager
async def downloading(
    resolve: Resolve = resolve, allow_networks: Sequence[Network] = (), allow_hosts: Sequence[str] = ()
) -> AsyncIterator[Downloader]:
    downloader = Downloader(FetchLimits(connect_timeout=0.5, total_timeout=20), resolve, allow_networks, allow_hosts)
    yield downloader
    await downloader.close()


@asynccontextmanager
async def canary(patch: pytest.MonkeyPatch) -> AsyncIterator[tuple[PictureHost, Addresses]]:
    """A host that every connection reaches, whatever its address, and the addresses that were asked for."""
    host, wanted = PictureHost({"/": PICTURE, "/dog.jpg": PICTURE}), Addresses()

    async def connect(addr_infos: Sequence[aiohttp.AddrInfoType], **_: object) -> socket.socket:
        wanted.extend(str(info[4][0]) for info in addr_infos)
        link = socket.socket()
        link.setblocking(False)
        await asyncio.get_running_loop().sock_connect(link, ("127.0.0.1", host.port))
        return link

    async with host:
        patch.setattr(aiohappyeyeballs, "start_connection", connect)
        yield host, wanted


async def fetch(downloader: Downloader, url: str) -> bytes | ServiceError:
    try:
        return await downloader.fetch(url, Deadline.after(20))
    except ServiceError as error:
        return error


def test_no_hostile_url_gets_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> dict[str, object]:
        async with canary(monkeypatch) as (host, _), downloading() as downloader:
            results = {url: await fetch(downloader, url) for url, _ in HOSTILE}
            assert host.connections == 0
            return {url: result for url, result in results.items() if not _is_error(result, dict(HOSTILE)[url])}

    assert len(HOSTILE) > 250
    assert asyncio.run(main()) == {}


def _is_error(result: bytes | ServiceError, code: int) -> bool:
    secrets = ["@", "meta-data", "etc/passwd", *(address for addresses in NAMES.values() for address in addresses)]
    return isinstance(result, ServiceError) and result.status == code and not any(s in str(result) for s in secrets)


@pytest.mark.parametrize("url", GOOD)
def test_a_good_url_gets_one(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with canary(monkeypatch) as (host, wanted), downloading() as downloader:
            await fetch(downloader, url)
            name = URL(url).host or ""
            assert host.connections == 1
            assert wanted == NAMES.get(name.removesuffix("."), wanted[:1])

    asyncio.run(main())


def test_no_redirect_leads_to_a_refused_address(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> dict[str, object]:
        async with canary(monkeypatch) as (host, _), downloading() as downloader:
            results = {}
            for number, (url, _) in enumerate(HOSTILE):
                location = url.encode("utf-8", "surrogatepass")
                host.answers[f"/{number}"] = b"HTTP/1.1 302 Found\r\nLocation: %s\r\n\r\n" % location
                results[url] = await fetch(downloader, f"http://public.test/{number}")
            assert {headers["Host"] for _, headers in host.requests} == {"public.test"}
            assert len(host.requests) >= len(HOSTILE)
            codes = {url: (403,) if url in REFUSED else (403, 424) for url in results}
            return {url: r for url, r in results.items() if getattr(r, "status", r) not in codes[url] and r != PICTURE}

    assert asyncio.run(main()) == {}


@pytest.mark.parametrize("path", ["/close", "/answer"])
def test_a_name_that_changes_its_address_is_judged_at_each_connection(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = [["93.184.215.14"], ["127.0.0.1"]]

    async def rebind(host: str, port: int) -> Addresses:
        return answers.pop(0)

    async def main() -> None:
        async with canary(monkeypatch) as (host, wanted), downloading(rebind) as downloader:
            host.answers["/answer"] = b"HTTP/1.1 302 Found\r\nLocation: /dog.jpg\r\nConnection: close\r\n\r\n"
            # /close: aiohttp tries once more by itself; /answer: the second hop needs a second connection
            assert isinstance(await fetch(downloader, f"http://rebind.test{path}"), AddressRefused)
            assert (host.connections, wanted, answers) == (1, ["93.184.215.14"], [])

    asyncio.run(main())


def test_a_connection_goes_to_the_address_that_was_checked_without_asking_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    async def count(host: str, port: int) -> Addresses:
        asked.append((host, port))
        return ["93.184.215.14", "93.184.215.15"] if len(asked) == 1 else ["127.0.0.1"]

    async def main() -> None:
        async with canary(monkeypatch) as (_, wanted), downloading(count) as downloader:
            assert await fetch(downloader, "http://public.test:81/dog.jpg") == PICTURE
            assert await fetch(downloader, "http://public.test:81/") == PICTURE  # over the same connection
            assert wanted == ["93.184.215.14", "93.184.215.15"]
            assert asked == [("public.test", 81)]

    asyncio.run(main())


@pytest.mark.parametrize("addresses", [1, 2])  # aiohttp connects to one in another way than to several
def test_the_last_gate_holds_when_all_others_are_open(addresses: int, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with PictureHost({"/": PICTURE}) as host, downloading() as downloader:
            monkeypatch.setattr(downloader, "_check", URL)
            monkeypatch.setattr(CheckedResolver, "resolve", unchecked)
            name = "127.0.0.1" if addresses == 1 else "public.test"
            assert isinstance(await fetch(downloader, host.url("/", host=name)), FetchFailed)
            assert host.connections == 0

    async def unchecked(self: object, host: str, port: int, family: int) -> list[dict[str, object]]:
        return [{"hostname": host, "host": "127.0.0.1", "port": port, "family": 2, "proto": 6, "flags": 0}] * addresses

    asyncio.run(main())


def test_allowed_networks_let_addresses_through_also_after_a_redirect() -> None:
    async def main() -> None:
        async with PictureHost({"/dog.jpg": PICTURE}) as host:
            direct, named = host.url("/dog.jpg"), host.url("/dog.jpg", host="localhost")
            async with downloading() as downloader:
                assert isinstance(await fetch(downloader, direct), AddressRefused)
                assert host.connections == 0
            async with downloading(allow_networks=[ip_network("127.0.0.1/32")]) as downloader:
                for url in (direct, named, host.url("/redirect/302/" + named)):
                    assert await fetch(downloader, url) == PICTURE

    asyncio.run(main())


def test_no_allowed_network_lets_the_metadata_of_a_cloud_through(monkeypatch: pytest.MonkeyPatch) -> None:
    everything = [ip_network("0.0.0.0/0"), ip_network("::/0"), ip_network("169.254.0.0/16")]
    urls = [f"http://{host}/" for host in ("169.254.169.254", "[::ffff:169.254.169.254]", "metadata.google.internal")]

    async def main() -> None:
        async with canary(monkeypatch) as (host, _), downloading(allow_networks=everything) as downloader:
            assert [getattr(await fetch(downloader, url), "status", None) for url in urls] == [403] * 3
            assert await fetch(downloader, "http://private.test/") == PICTURE
            assert host.connections == 1

    asyncio.run(main())


def test_only_hosts_on_the_list_are_asked_also_after_a_redirect(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with canary(monkeypatch) as (host, _), downloading(allow_hosts=["public.test"]) as downloader:
            assert await fetch(downloader, "http://public.test/dog.jpg") == PICTURE
            assert isinstance(await fetch(downloader, "http://both.test/dog.jpg"), AddressRefused)
            redirect = "http://public.test/redirect/302/http://both.test/dog.jpg"
            assert isinstance(await fetch(downloader, redirect), AddressRefused)
            assert {headers["Host"] for _, headers in host.requests} == {"public.test"}

    asyncio.run(main())
