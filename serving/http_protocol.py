"""uvicorn's HTTP connection, with limits on how much head a request has and how long it takes to arrive.

Of a protocol that a caller offers to change to, and of trailers, it takes no notice.
"""

import asyncio
from typing import Any

import httptools
import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD = 64 * 1024
"""Most bytes of a request's first line and headers."""
SPARE_SECONDS = 2.0
"""What a body gets beyond the request's time: long enough to be answered with a sentence first."""


class LostTransport:
    """A transport that takes writes when it is closed already: uvloop's raise, before anyone is told of the loss."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send, if there is still someone."""
        if not self._transport.is_closing():
            self._transport.write(data)


class HttpProtocol(HttpToolsProtocol):
    """One connection; uvicorn itself waits for ever for a request that never comes to its end."""

    def __init__(self, *args: Any, seconds: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._seconds = seconds + SPARE_SECONDS
        self._arriving: asyncio.TimerHandle | None = None  # from a request's first byte to its last
        self._has_head = False
        self._extra = 0  # bytes that are no body: of the head, then since the last piece of the body

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(LostTransport(transport))  # type: ignore[arg-type]  # all that is used of one
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def connection_lost(self, exc: Exception | None) -> None:
        self._unset_keepalive_if_required()
        self._stop_clock()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._extra += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._decline_upgrade(data[upgrade.args[0] :])
            return
        except httptools.HttpParserError as error:
            self.send_400_response(str(error))
            return
        if self._arriving and self._extra > MAX_HEAD:
            self._refuse_extra()

    def _refuse_extra(self) -> None:
        if self._has_head:  # trailers, or what may follow a chunk's size; an answer may be on its way
            self._end()
        else:
            self._refuse(b"431 Request Header Fields Too Large", f"the headers have more than {MAX_HEAD} bytes")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._unset_keepalive_if_required()  # not before: line breaks between two requests are no sign of life
        self._stop_clock()
        self._has_head, self._extra = False, 0
        self._arriving = self.loop.call_later(self._seconds, self._end)

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._has_head:
            super().on_header(name, value)

    def on_body(self, body: bytes) -> None:
        self._extra = 0
        super().on_body(body)

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade():  # the parser takes such a request to end here, with its body still to come
            return
        self._has_head, self._extra = True, 0
        self._unset_keepalive_if_required()  # the answer to the request before may have set it
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        self._stop_clock()
        super().on_message_complete()

    def _decline_upgrade(self, rest: bytes) -> None:
        """Read the request again without its wish to upgrade: `rest` begins with its body."""
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        if method == b"CONNECT":  # is nothing but the wish
            self.send_400_response("CONNECT")
            return
        kept = [(name, value) for name, value in self.headers if name not in (b"upgrade", b"http2-settings")]
        head = b"".join(b"%s: %s\r\n" % header for header in kept)
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's own
        self.data_received(b"%s %s HTTP/%s\r\n%s\r\n%s" % (method, self.url, version, head, rest))

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP."""
        self._refuse(b"400 Bad Request", "the request is not proper HTTP")

    def _refuse(self, status: bytes, sentence: str) -> None:
        body = orjson.dumps({"error": sentence})
        head = b"HTTP/1.1 %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
        self.transport.write(head % (status, len(body)) + body)
        self._end()

    def _end(self) -> None:
        self._stop_clock()
        self.transport.close()

    def _stop_clock(self) -> None:
        if self._arriving:
            self._arriving.cancel()
            self._arriving = None
