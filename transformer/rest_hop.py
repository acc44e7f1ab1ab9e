"""The predictor over REST with binary tensors: less time than gRPC takes, and a balance over pods of our own."""

import asyncio
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
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
from transformer.connector import BoundedResponse, SystemResolver
from transformer.hop import CONNECT_SECONDS, Lost
from transformer.pods import Pod, Pods
from transformer.target import Host

SILENT_SECONDS = 5
"""After which a pod is lost whose host acknowledges nothing any more, such as one whose node went away."""
_KEEPALIVE = 30.0  # seconds; below the server's, or calls meet closed connections
_LOST = {500, 502, 503}  # its engine failed; a proxy found nobody; gone, or not ready yet
_AWAY = {502, 503}  # not one whose engine failed: that is known of one batch


@dataclass(frozen=True)
class _Message:
    """What goes to whichever pod."""

    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes | None = None

    def of(self, call: Call, seconds: float) -> "_Message":
        """With the call's identity, and the seconds that are left for it."""
        return replace(self, headers={**dict(call.metadata()), TIMEOUT_MS: str(int(1000 * seconds)), **self.headers})


class RestHop:
    """Calls the pods in turn; made inside a running event loop."""

    def __init__(self, hosts: Sequence[Host], model_name: str) -> None:
        self._path = f"/v2/models/{quote(model_name, safe='')}"
        self._system = SystemResolver()
        self._pods = Pods(hosts, self._system)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEPALIVE, socket_factory=_open_socket),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=("Accept-Encoding", "User-Agent"),
            trust_env=False,
            response_class=BoundedResponse,
        )

    async def describe(self, call: Call) -> Sequence[TensorSpec]:
        """See Hop."""
        _, body = await self._call(_Message("GET", self._path), call)
        return decode_inputs(body)

    async def infer(self, request: InferRequest, known: Mapping[str, Tensor], call: Call) -> InferResponse:
        """See Hop."""
        content, size = encode_request(request)
        message = _Message("POST", f"{self._path}/infer", {HEADER_LENGTH: str(size)}, content)
        headers, body = await self._call(message, call)
        return decode_response(body, headers.get(HEADER_LENGTH), known, request.id)

    async def close(self) -> None:
        """Close the connections; calls that are under way are lost."""
        await self._session.close()
        await self._pods.close()
        self._system.close()

    async def _call(self, message: _Message, call: Call) -> tuple[Mapping[str, str], bytes]:
        """The answer's headers and body, from the pod whose turn it is."""
        remaining = call.deadline.remaining()
        if remaining <= 0:
            raise hop.too_slow()
        try:
            async with asyncio.timeout(remaining):
                return await self._ask(await self._choose(), message.of(call, remaining), remaining)
        except TimeoutError:  # says nothing of the pod: all may be busy
            raise hop.too_slow() from None

    async def _choose(self) -> Pod:
        try:
            return await self._pods.choose()
        except (OSError, RuntimeError):  # the second when it is closed
            raise Lost(hop.not_ready(answered=False)) from None

    async def _ask(self, pod: Pod, message: _Message, seconds: float) -> tuple[Mapping[str, str], bytes]:
        headers = {"host": pod.authority, **message.headers}  # the name that proxies in between know
        # Less than all that is left, so that another pod can be asked.
        connect = aiohttp.ClientTimeout(sock_connect=min(CONNECT_SECONDS, seconds / 2))
        try:
            async with self._session.request(
                message.method, f"http://{pod.address}{message.path}", data=message.content, headers=headers,
                allow_redirects=False, timeout=connect,
            ) as answer:  # fmt: skip
                body = await answer.read()
        except aiohttp.ClientResponseError:
            self._pods.note_failure(pod)
            raise Lost(NotReady("the predictor does not speak HTTP: --predictor_host takes its HTTP port")) from None
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
