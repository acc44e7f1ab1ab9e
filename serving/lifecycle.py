"""From process start to exit 0: listen, load, say ready, serve, drain."""

import asyncio
import contextlib
import signal
import socket
from collections.abc import Coroutine
from typing import Any

import uvloop
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.grpc_server import GrpcServer
from serving.held import ByteBudget
from serving.http_server import build_server, listen, port_taken
from serving.logs import log
from serving.metrics import Metrics
from serving.metrics_server import serve_metrics
from serving.model import State, V2Model
from serving.repository import Repository
from serving.server_settings import ServerSettings
from serving.tracing import Tracer


class StopSignals:
    """SIGTERM or SIGINT asks to drain and leave; SIGINT after that (Ctrl-C twice) to leave now."""

    def __init__(self) -> None:
        self.asked, self.hurried = asyncio.Event(), asyncio.Event()

    def listen(self) -> None:
        """Take the signals over."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.asked.set)
        loop.add_signal_handler(signal.SIGINT, self._interrupt)

    def _interrupt(self) -> None:
        (self.hurried if self.asked.is_set() else self.asked).set()


class Process:
    """One server process: a model, its two protocols and its metrics."""

    def __init__(
        self, repository: Repository, app: ASGIApp, metrics: Metrics, settings: ServerSettings, tracer: Tracer,
        held: ByteBudget,
    ) -> None:  # fmt: skip
        self._repository, self._model = repository, repository.model
        self._metrics, self._settings, self._tracer = metrics, settings, tracer
        self._stop = StopSignals()
        self._grpc = GrpcServer(repository, metrics, settings, tracer, held)
        self._http = build_server(
            _ending_connections(app, self._model), settings.request_timeout, settings.grace_seconds
        )

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT; a first load that fails ends the process."""
        self._stop.listen()
        http_socket = listen(self._settings.host, self._settings.http_port, "http_port")
        addresses = await self._open_ports(http_socket)
        http = asyncio.create_task(self._http.serve([http_socket]))
        try:
            if await self._load_unless_stopped():
                await self._serve(addresses)
        finally:
            await self._close(http)

    async def _open_ports(self, http_socket: socket.socket) -> str:
        settings = self._settings
        try:
            grpc_port = await self._grpc.start(settings.host, settings.grpc_port)
        except RuntimeError:
            raise port_taken("grpc_port", settings.grpc_port) from None
        metrics_port = serve_metrics(self._metrics, settings.host, settings.metrics_port)
        ports = {"http": http_socket.getsockname()[1], "grpc": grpc_port, "metrics": metrics_port}
        return " ".join(f"{name}={settings.host}:{port}" for name, port in ports.items())

    async def _load_unless_stopped(self) -> bool:
        loading = asyncio.create_task(self._repository.load_first())
        stopping = asyncio.create_task(self._stop.asked.wait())
        await _wait_for_first(loading, stopping)
        stopping.cancel()
        if loading.done():
            loading.result()
            return True
        loading.cancel()
        return False

    async def _serve(self, addresses: str) -> None:
        self._model.state = State.SERVING
        print(f"ready {addresses}", flush=True)  # noqa: T201
        log("ready", addresses=addresses)
        await self._stop.asked.wait()
        log("draining", seconds=self._settings.drain_seconds)
        self._model.state = State.DRAINING
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stop.hurried.wait(), self._settings.drain_seconds)

    async def _close(self, http: "asyncio.Task[None]") -> None:
        self._http.should_exit = True
        ending = asyncio.gather(self._grpc.stop(self._settings.grace_seconds), http)
        hurrying = asyncio.create_task(self._stop.hurried.wait())
        await _wait_for_first(ending, hurrying)
        if hurrying.done():
            self._http.force_exit = True
            await self._grpc.stop(0)
        await ending
        hurrying.cancel()
        await self._cut_off()
        await self._model.slot.close()
        await self._tracer.close()
        log("stopped")

    async def _cut_off(self) -> None:
        """Cancel the HTTP requests that are left, and give them the time to tell their callers."""
        if left := set(self._http.server_state.tasks):
            for task in left:
                task.cancel()
            await asyncio.wait(left, timeout=1)


async def _wait_for_first(*futures: "asyncio.Future[Any]") -> None:
    await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)


def _ending_connections(app: ASGIApp, model: V2Model[Any]) -> ASGIApp:
    """While the model drains, every answer ends its connection, so that none is left to be cut off."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_last(message: Message) -> None:
            if message["type"] == "http.response.start" and model.state is State.DRAINING:
                MutableHeaders(scope=message)["connection"] = "close"
            await send(message)

        await app(scope, receive, send_last)

    return answer


def run_process(main: Coroutine[Any, Any, None]) -> None:
    """Run a server's coroutine on uvloop; threads that are still busy then are not waited for."""
    uvloop.new_event_loop().run_until_complete(main)
