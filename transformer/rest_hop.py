"""The predictor over REST with binary tensors: half of gRPC's time, and a balance over pods of our own."""

import asyncio
import socket
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import aiohttp
import orjson

from serving.call import TIMEOUT_MS, Call
from serving.errors import NotReady, ServiceError
from serving.rest_caller import decode_inputs, decode_response, encode_request
from serving.rest_codec import HEADER_LENGTH
from serving.v2 import InferRequest, InferResponse, Tensor, TensorSpec
from transformer import hop
from transformer.connector import Resolve, SystemResolver
from transformer.hop import CONNECT_SECONDS, Lost
from transformer.pods import Pod, Pods
from transformer.target import Host

SILENT_SECONDS = 5
"""After which a pod is lost whose host acknowledges nothing any more, such as one whose node went away."""
_KEEPALIVE = 30.0  # seconds; below the server's, or calls meet closed connections
_LOST = {500, 502, 503}  # its engine failed; a proxy found nobody; gone, or not ready yet
_AWAY = {502, 503}  # not one whose engine failed: that is known of one batch


class RestHop:
    """Calls the pods in turn; made inside a running event loop."""

    def __init__(self, hosts: Sequence[Host], model_name: str, resolve: Resolve | None = None) -> None:
        self._path = f"/v2/models/{quote(model_name, safe='')}"
        self._system = SystemResolver()
        self._pods = Pods(hosts, resolve or self._system)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEPALIVE, socket_factory=_open_socket),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=("Accept-Encoding", "User-Agent"),
            trust_env=False,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
        )

    async def describe(self, call: Call) -> Sequence[TensorSpec]:
        """See Hop."""
        _, body = await self._call("GET", self._path, call)
        return decode_inputs(body)

    async def infer(self, request: InferRequest, known: Mapping[str, Tensor], call: Call) -> InferResponse:
        """See Hop."""
        content, size = encode_request(request)
        head, body = await self._call("POST", f"{self._path}/infer", call, {HEADER_LENGTH: str(size)}, content)
        return decode_response(body, head.get(HEADER_LENGTH), known)

    async def close(self) -> None:
        """Close the connections; calls that are under way are lost."""
        await self._session.close()
        await self._pods.close()
        self._system.close()

    async def _call(
        self, method: str, path: str, call: Call, headers: Mapping[str, str] | None = None, content: bytes | None = None
    ) -> tuple[Mapping[str, str], bytes]:
        """The answer's headers and body, from the pod whose turn it is."""
        remaining = call.deadline.remaining()
        if remaining <= 0:
            raise hop.too_slow()
        try:
            async with asyncio.timeout(remaining):
                pod = await self._choose()
                # The name that proxies in between know, not the address.
                own = {"host": pod.authority, TIMEOUT_MS: str(int(1000 * remaining))}
                return await self._ask(pod, method, path, {**dict(call.metadata()), **own, **(headers or {})}, content)
        except TimeoutError:  # says nothing of the pod: all may be busy
            raise hop.too_slow() from None

    async def _choose(self) -> Pod:
        try:
            return await self._pods.choose()
        except OSError:
            raise Lost(hop.not_ready(answered=False)) from None

    async def _ask(
        self, pod: Pod, method: str, path: str, headers: Mapping[str, str], content: bytes | None
    ) -> tuple[Mapping[str, str], bytes]:
        url = f"http://{pod.address}{path}"
        try:
            async with self._session.request(
                method, url, data=content, headers=headers, allow_redirects=False
            ) as answer:
                body = await answer.read()
        except aiohttp.ClientResponseError:
            self._pods.note_failure(pod)
            raise NotReady("the predictor does not speak HTTP: --predictor_host takes its HTTP port") from None
        # RuntimeError: what uvloop raises for some sockets that fail
        except (aiohttp.ClientError, OSError, RuntimeError):
            self._pods.note_failure(pod)
            raise Lost(hop.not_ready(answered=False)) from None
        if answer.status == 200:
            return answer.headers, body
        error = _translate(answer.status, body)
        if answer.status not in _LOST:
            raise error
        if answer.status in _AWAY:
            self._pods.note_failure(pod)
        raise Lost(error)


def _open_socket(info: aiohttp.AddrInfoType) -> socket.socket:
    opened = socket.socket(*info[:3])
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # while an answer is waited for
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, SILENT_SECONDS)
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENT_SECONDS * 1000)
    return opened


def _translate(status: int, body: bytes) -> ServiceError:
    """Our error for the predictor's."""
    said = _read_error(body)
    if status in (408, 504):
        return hop.too_slow()
    if status == 429:
        return hop.queue_full()
    if status == 413:
        return hop.too_large()
    if status == 503:
        return hop.not_ready(answered=bool(said))
    if status in (400, 415, 422):
        return hop.refuses_pixels(said)
    if status == 404:
        return hop.unknown_model(said)
    return hop.failed(str(status))


def _read_error(body: bytes) -> str:
    """Our servers' sentence; what a proxy in between writes may name addresses."""
    try:
        document: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        return ""
    said = document.get("error") if isinstance(document, dict) else None
    return said if isinstance(said, str) else ""
