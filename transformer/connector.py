"""Connections to checked addresses only."""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from serving.errors import AddressRefused

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Host and port to addresses; raises OSError when there are none."""
Check = Callable[[str], None]
"""Raises AddressRefused for an address that must not be connected to."""

MOST_PRELIMINARY = 10
"""Answers of the kind 1xx before the real one; reading them, aiohttp lets nothing else run."""

_THREADS = 32  # look-ups at a time: the system's resolver blocks, and slow name servers must not stop other work
_KEEPALIVE = 5.0  # seconds; each host leaves an idle connection for so long


class SystemResolver:
    """Asks the system's resolver in threads of its own: the event loop's few are shared with everything else."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="resolve")

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        """All addresses of the host."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, _ask_system, host, port)

    def close(self) -> None:
        """Drop the look-ups that have not begun."""
        self._threads.shutdown(wait=False, cancel_futures=True)


class CheckedResolver(AbstractResolver):
    """Resolves for aiohttp; one address that `check` refuses refuses the name."""

    def __init__(self, resolve: Resolve, check: Check) -> None:
        self._resolve = resolve
        self._check = check

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """The addresses that aiohttp then connects to; raises OSError when there are none."""
        try:
            addresses = list(dict.fromkeys(await self._resolve(host, port)))
        except UnicodeError as error:
            raise OSError("not a name that can be resolved") from error
        if not addresses:
            raise OSError("no addresses")
        for address in addresses:
            self._check(address)
        return [_result(host, address, port) for address in addresses]

    async def close(self) -> None:
        """Nothing is held."""


class BoundedResponse(aiohttp.ClientResponse):
    """An answer that must begin after a few preliminary ones."""

    async def start(self, connection: Any) -> "BoundedResponse":
        """Read the head; raises ClientResponseError for a host that only announces."""
        protocol, read, left = connection.protocol, connection.protocol.read, MOST_PRELIMINARY

        async def read_counted() -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise aiohttp.ClientResponseError(self.request_info, self.history, message="too many 1xx")
            return await read()

        protocol.read = read_counted
        try:
            await super().start(connection)
        finally:
            del protocol.read
        return self


def open_connector(resolve: Resolve, check: Check, tls: ssl.SSLContext) -> aiohttp.TCPConnector:
    """A pool of connections, each to an address that `check` has passed; how many is for the caller to limit."""
    return aiohttp.TCPConnector(
        limit=0,
        keepalive_timeout=_KEEPALIVE,
        resolver=CheckedResolver(resolve, check),
        use_dns_cache=False,
        socket_factory=lambda info: _open_socket(info, check),
        ssl=tls,
    )


def _open_socket(info: aiohttp.AddrInfoType, check: Check) -> socket.socket:
    """The last gate: aiohttp does not ask its resolver about literal addresses, and this sees those as well."""
    family, kind, protocol, _, address = info
    try:
        check(str(address[0]))
    except AddressRefused:
        raise PermissionError("address refused") from None  # aiohttp expects an OSError here
    return socket.socket(family, kind, protocol)


def _ask_system(host: str, port: int) -> list[str]:
    return [str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


def _result(host: str, address: str, port: int) -> ResolveResult:
    return ResolveResult(
        hostname=host,
        host=address,
        port=port,
        family=socket.AF_INET6 if ":" in address else socket.AF_INET,
        proto=socket.IPPROTO_TCP,
        flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
    )
