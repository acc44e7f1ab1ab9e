"""A picture's URL to its bytes, safe against hosts that are internal, slow, huge or lying."""

import asyncio
import ssl
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urljoin

import aiohttp
from yarl import URL

from serving.deadline import Deadline
from serving.errors import FetchFailed, InvalidRequest, NotReady, OutOfRange, QueueFull, ServiceError, SettingError
from serving.held import ByteBudget
from transformer.address_guard import Network, check_address, check_host, check_url, is_address
from transformer.connector import BoundedResponse, Resolve, SystemResolver, open_connector
from transformer.data_url import decode_data_url, is_data_url
from transformer.limits import MAX_BYTES
from transformer.picture_body import read_body
from transformer.shared_calls import SharedCalls

__all__ = ["Downloader", "FetchLimits", "Resolve"]

_HEADERS = {"User-Agent": "doggos/0.1", "Accept": "image/*,*/*;q=0.5", "Accept-Encoding": "identity"}
_REDIRECTS = (301, 302, 303, 307, 308)


@dataclass(frozen=True)
class FetchLimits:
    """What downloads may take; times in seconds."""

    max_bytes: int = MAX_BYTES
    connect_timeout: float = 3.0
    read_timeout: float = 5.0  # between bytes
    total_timeout: float = 8.0  # all redirects together
    max_redirects: int = 3
    connections: int = 256


class Downloader:
    """Fetches pictures over one pool of connections, which belongs to the event loop of the first fetch."""

    def __init__(
        self,
        limits: FetchLimits,
        resolve: Resolve | None = None,
        allow_networks: Sequence[Network] = (),
        allow_hosts: Sequence[str] = (),
        proxy: str | None = None,
        ca_file: str | None = None,
        held: ByteBudget | None = None,
    ) -> None:
        """Without `resolve` the system resolves. With `proxy` the proxy resolves and judges names, and only
        literal addresses are judged here. `ca_file` is trusted instead of the system's authorities.
        Pictures take from `held` as they come and for as long as they are in memory."""
        self._limits, self._held = limits, held or ByteBudget(sys.maxsize)
        self._system = SystemResolver()
        self._resolve = resolve or self._system
        self._allow_networks = tuple(allow_networks)
        self._allow_hosts = tuple(allow_hosts)
        self._proxy = _read_proxy(proxy)
        self._tls = _trust(ca_file)
        self._slots = asyncio.Semaphore(limits.connections)
        self._fetches: SharedCalls[bytes] = SharedCalls()
        self._open_session: aiohttp.ClientSession | None = None

    async def fetch(self, url: str, deadline: Deadline) -> bytes:
        """The picture's bytes; equal URLs in flight are fetched once. Raises ServiceErrors only."""
        deadline.check()
        if is_data_url(url):
            return await decode_data_url(url, self._limits.max_bytes)
        checked = self._check(url)
        try:
            async with asyncio.timeout(deadline.remaining()):
                return await self._fetches.run(str(checked), lambda: self._fetch(checked))
        except TimeoutError:
            raise _too_slow() from None

    async def close(self) -> None:
        """Close all connections; downloads that are under way fail with NotReady."""
        await self._fetches.close()
        self._system.close()
        if self._open_session is not None:
            await self._open_session.close()

    async def _fetch(self, url: URL) -> bytes:
        waiting = True
        try:
            async with asyncio.timeout(self._limits.total_timeout), self._slots:
                waiting = False
                return await self._follow(url)
        except TimeoutError:
            raise (QueueFull("too many downloads at once") if waiting else _too_slow()) from None
        # RuntimeError: what uvloop raises for some sockets that fail
        except (aiohttp.ClientError, OSError, ValueError, RuntimeError) as error:
            raise self._explain(error) from None

    async def _follow(self, url: URL) -> bytes:
        for _ in range(self._limits.max_redirects + 1):
            async with self._session().get(url, allow_redirects=False, proxy=self._proxy) as response:
                if 200 <= response.status < 300:
                    return await read_body(response, self._limits.max_bytes, self._held)
                url = self._redirect(url, response)
        raise FetchFailed(f"the picture's host redirected more than {self._limits.max_redirects} times", "redirect")

    def _redirect(self, url: URL, response: aiohttp.ClientResponse) -> URL:
        location = response.headers.get("Location")
        if response.status not in _REDIRECTS or location is None:
            raise FetchFailed(f"the picture's host answered {response.status}", "status")
        try:
            target = self._check(urljoin(str(url), location))
        except (InvalidRequest, OutOfRange, ValueError):  # the host's fault, not the caller's
            sentence = "the picture's host redirected to something that is not an http or https URL"
            raise FetchFailed(sentence, "redirect") from None
        if (url.scheme, target.scheme) == ("https", "http"):
            raise FetchFailed("the picture's host redirected from https to http", "redirect")
        return target

    def _check(self, text: str) -> URL:
        url = check_url(text)
        host = url.raw_host or ""
        check_host(host, self._allow_hosts)
        if is_address(host):  # aiohttp asks its resolver about names only
            self._check_address(host)
        return url

    def _check_address(self, address: str) -> None:
        check_address(address, self._allow_networks)

    def _session(self) -> aiohttp.ClientSession:
        if self._open_session is None:
            check = _accept if self._proxy else self._check_address  # the proxy itself may well be internal
            limits = self._limits
            self._open_session = aiohttp.ClientSession(
                connector=open_connector(self._resolve, check, self._tls),
                response_class=BoundedResponse,
                headers=_HEADERS,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
                timeout=aiohttp.ClientTimeout(
                    total=None, sock_connect=limits.connect_timeout, sock_read=limits.read_timeout
                ),
            )
        return self._open_session

    def _explain(self, error: Exception) -> ServiceError:
        match error:
            case aiohttp.ClientHttpProxyError():
                return FetchFailed(f"the egress proxy answered {error.status}", "proxy")
            case aiohttp.ClientConnectorDNSError() if not self._proxy:
                return FetchFailed("the picture's host name cannot be resolved", "dns")
            case aiohttp.ClientSSLError():
                return FetchFailed("the TLS connection to the picture's host failed", "tls")
            case aiohttp.ClientConnectorError() if self._proxy:
                return NotReady("the egress proxy cannot be reached")
            case aiohttp.ClientConnectorError():
                return FetchFailed("the picture's host cannot be reached", "connect")
            case aiohttp.ClientPayloadError():
                return FetchFailed("the picture's host broke off its answer")
            case aiohttp.ClientResponseError():
                return FetchFailed("the picture's host did not answer in proper HTTP")
        return FetchFailed("the picture's host broke off the connection")


def _too_slow() -> FetchFailed:
    return FetchFailed("the picture's host was too slow", "timeout")


def _accept(address: str) -> None:
    pass


def _read_proxy(proxy: str | None) -> URL | None:
    if not proxy:
        return None
    try:
        url = URL(proxy)
    except ValueError:
        url = URL()
    if url.scheme not in ("http", "https") or not url.raw_host:
        raise SettingError("--egress_proxy: give it as http://HOST:PORT")
    return url


def _trust(ca_file: str | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file or None)
    except OSError:  # ssl.SSLError is one
        raise SettingError(f"--ca_file: {ca_file} cannot be read; name a file with certificates in PEM form") from None
