"""Starts the project's servers as processes on this machine, for the demo, the tests and the benchmarks."""

import functools
import http.server
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

LOOPBACK = "127.0.0.1"
FREE_PORTS = ("--http_port", "0", "--grpc_port", "0", "--metrics_port", "0")


@dataclass(frozen=True)
class Server:
    """A server that is ready: its process and its addresses (HOST:PORT)."""

    process: "subprocess.Popen[str]"
    http: str
    grpc: str
    metrics: str
    log: Path

    def stop(self, timeout: float = 30) -> int:
        """SIGTERM, then the exit code."""
        self.process.terminate()
        return self.process.wait(timeout)


class StartError(Exception):
    """A server ended, or said nothing, before it was ready."""


def start_server(
    module: str, flags: Sequence[str], log: Path, environ: Mapping[str, str] | None = None, timeout: float = 240
) -> Server:
    """Run `python -m MODULE FLAGS` on loopback until it prints its ready line; its log goes to `log`."""
    command = [sys.executable, "-m", module, "--host", LOOPBACK, "--drain_seconds", "0", *flags]
    with log.open("w") as output:
        process = subprocess.Popen(  # noqa: S603
            command, stdout=subprocess.PIPE, stderr=output, text=True, env={**os.environ, **(environ or {})}
        )
    watchdog = threading.Timer(timeout, process.kill)
    watchdog.start()
    try:
        ready = _wait_until_ready(process, log)
    except StartError:
        if watchdog.finished.is_set():
            raise StartError(f"python -m {module} was not ready within {timeout:.0f} s; its log is {log}") from None
        raise
    except BaseException:  # Ctrl-C, say: nobody else knows of the process yet
        process.kill()
        process.wait()
        raise
    finally:
        watchdog.cancel()
    return Server(process, ready["http"], ready["grpc"], ready["metrics"], log)


def _wait_until_ready(process: "subprocess.Popen[str]", log: Path) -> dict[str, str]:
    assert process.stdout
    for line in process.stdout:
        if line.startswith("ready "):
            return dict(part.split("=", 1) for part in line.split()[1:])
    process.wait()
    raise StartError(f"exit code {process.returncode}: {_last_line(log)}")


def _last_line(log: Path) -> str:
    lines = log.read_text().strip().splitlines()
    return lines[-1] if lines else "nothing was logged"


@contextmanager
def running(
    module: str, flags: Sequence[str], log: Path, timeout: float = 240, environ: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """A server for the time of the block."""
    ports = () if "--http_port" in flags else FREE_PORTS
    server = start_server(module, [*ports, *flags], log, environ, timeout)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.stop()


class _QuietFiles(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Say nothing of each request."""


class PictureServer(http.server.ThreadingHTTPServer):
    """Takes many connections at once: of those above the queue's length the system loses some for a minute."""

    request_queue_size = 256


@contextmanager
def picture_server(folder: Path, port: int = 0) -> Iterator[str]:
    """Serve a folder of pictures on loopback; yields its URL. Raises StartError for a port that cannot be had."""
    handler = functools.partial(_QuietFiles, directory=str(folder))
    try:
        server = PictureServer((LOOPBACK, port), handler)
    except OSError as error:
        raise StartError(f"the pictures' port {port} cannot be had ({error.strerror}): stop what has it") from None
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://{LOOPBACK}:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
