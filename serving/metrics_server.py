"""`/metrics` from a thread of its own, so that it answers while the servers' event loop is busy.

One loop takes all its connections: prometheus_client's own server keeps a thread for each, as long as the caller likes.
"""

import threading

import uvloop
from prometheus_client import make_asgi_app
from starlette.types import ASGIApp, Receive, Scope, Send

from serving.http_server import build_server, listen
from serving.metrics import Metrics

REQUEST_SECONDS = 10.0
_HEADERS = (b"accept", b"accept-encoding")


def serve_metrics(metrics: Metrics, host: str, port: int) -> int:
    """Serve until the process ends; returns the port that was taken, raises SettingError when it cannot be had."""
    listener = listen(host, port, "metrics_port")
    server = build_server(_only_ascii(make_asgi_app(metrics.registry)), REQUEST_SECONDS, 0)
    loop = uvloop.new_event_loop()
    threading.Thread(
        target=loop.run_until_complete, args=(server.serve([listener]),), name="metrics", daemon=True
    ).start()
    return int(listener.getsockname()[1])


def _only_ascii(app: ASGIApp) -> ASGIApp:
    """Keep what `app` cannot decode from it."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        kept = [(name, value) for name, value in scope["headers"] if name in _HEADERS and value.isascii()]
        query = scope["query_string"] if scope["query_string"].isascii() else b""
        await app({**scope, "headers": kept, "query_string": query}, receive, send)

    return answer
