"""How both HTTP ports listen: uvicorn, with our limits on connections and without its signal handlers."""

import contextlib
import socket
from collections.abc import Iterator
from functools import partial

import uvicorn
from starlette.types import ASGIApp

from serving.errors import SettingError
from serving.http_protocol import HttpProtocol

UNREAD_SECONDS = 30
KEEP_ALIVE_SECONDS = 65  # longer than the idle timeout of the usual proxies, or they meet closed connections


class HttpServer(uvicorn.Server):
    """uvicorn without its signal handlers: all ports of a process end together."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def build_server(app: ASGIApp, request_seconds: float, grace_seconds: float) -> HttpServer:
    """A server of `app`, to which a request may take `request_seconds` to arrive."""
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        http=partial(HttpProtocol, seconds=request_seconds),  # type: ignore[arg-type]  # a class for uvicorn
        loop="none",  # the loop runs already: see run_process
        lifespan="off",
        ws="none",
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=grace_seconds,  # type: ignore[arg-type]  # seconds need not be whole
    )
    return HttpServer(config)


def listen(host: str, port: int, flag: str) -> socket.socket:
    """A listening socket; raises SettingError naming the port's `flag` when it cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Connections inherit it: one whose caller does not read its answer ends.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNREAD_SECONDS * 1000)
    try:
        listener.bind((host, port))
    except (OSError, OverflowError):
        listener.close()
        raise port_taken(flag, port) from None
    listener.listen(2048)
    return listener


def port_taken(flag: str, port: int) -> SettingError:
    """What to say of a port that cannot be had."""
    return SettingError(f"--{flag}: cannot listen on port {port}: it is in use or not allowed, or --host is wrong")
