"""A downloader beside a host on loopback, for the tests of what passes between the two."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from ipaddress import ip_network
from typing import Any

import pytest
import uvloop

from serving.deadline import Deadline
from serving.errors import ServiceError
from tests.picture_host import PictureHost
from transformer.download import Downloader, FetchLimits, Resolve

Run = Callable[[Coroutine[Any, Any, None]], None]

both_loops = pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
"""KServe's servers use uvloop where it is installed."""

PICTURE = random.Random(1).randbytes(30_000)
QUICK = FetchLimits(max_bytes=100_000, connect_timeout=20, read_timeout=0.4, total_timeout=0.6)
PATIENT = FetchLimits(connect_timeout=20, read_timeout=20, total_timeout=20)


@asynccontextmanager
async def download_from(
    limits: FetchLimits = PATIENT, resolve: Resolve | None = None
) -> AsyncIterator[tuple[PictureHost, Downloader]]:
    """A host with /dog.jpg, and a downloader that may connect to it."""
    downloader = Downloader(limits, resolve, allow_networks=[ip_network("127.0.0.1/32")])
    async with PictureHost({"/dog.jpg": PICTURE}) as host:
        try:
            yield host, downloader
        finally:
            await downloader.close()


async def fail(downloader: Downloader, url: str, seconds: float = 20) -> ServiceError:
    """The error of a fetch that must fail."""
    with pytest.raises(ServiceError) as caught:
        await downloader.fetch(url, Deadline.after(seconds))
    return caught.value


async def loopback(host: str, port: int) -> list[str]:
    """Resolves every name to loopback."""
    return ["127.0.0.1"]
