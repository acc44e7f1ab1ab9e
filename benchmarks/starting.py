"""Starts a system's processes: ours, two bare servers, or what one would use instead."""

import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.load import Unavailable
from benchmarks.metering import Meter
from benchmarks.workload import Workload
from launch import FREE_PORTS, LOOPBACK, start_server

if TYPE_CHECKING:
    from benchmarks.systems import System

BENCH = Path(".bench")
PEERS = Path("benchmarks/peers")
LOGS = BENCH / "logs"
START_SECONDS = 150  # Ray takes a minute on an idle machine of two cores
GRPC = ", gRPC"  # ends the names of systems that are asked over gRPC


def start_ours(system: "System", workload: Workload, meter: Meter) -> str:
    """Predictor and transformer with their default settings but for `flags`; `script` is the predictor's module."""
    flags = [*system.flags, "--model_dir", system.environ["MODEL_DIR"]]
    predictor = start_server(
        system.script, [*FREE_PORTS, *flags], LOGS / f"{system.name}-p.log", meter.environ, START_SECONDS
    )
    flags = [*system.flags, "--predictor_host", predictor.http, "--index_dir", str(workload.index)]
    flags += ["--allow_networks", "127.0.0.1/32"]
    transformer = start_server(
        "transformer", [*FREE_PORTS, *flags], LOGS / f"{system.name}-t.log", meter.environ, START_SECONDS
    )
    return transformer.grpc if system.name.endswith(GRPC) else transformer.http


def start_bare_servers(system: "System", workload: Workload, meter: Meter) -> str:
    """Both processes of `script`; the predictor first, and the transformer when its port is open."""
    model, ports = system.environ["MODEL_DIR"], (_free_port(), _free_port())
    transformer = ("transformer", ports[1], f"http://{LOOPBACK}:{ports[0]}", model, workload.index)
    for kind, port, *rest in (("predictor", ports[0], model), transformer):
        command = [sys.executable, "-m", system.script, str(kind), str(port), *map(str, rest)]
        _start(command, port, LOGS / f"{system.name}-{kind}.log", meter.environ, Path())
    return f"{LOOPBACK}:{ports[1]}"


def start_peer(system: "System", workload: Workload, meter: Meter) -> str:
    """Run its script in its environment, and wait until its port is open."""
    python = BENCH / system.script.split("_")[0] / "bin" / "python"
    if not python.exists():
        raise Unavailable(f"{python} is not there: make bench-peers")
    port = _free_port()
    environ = {
        **meter.environ,
        "MODEL_DIR": str(workload.model.resolve()),
        "INDEX_DIR": str(workload.index.resolve()),
        "PORT": str(port),
        "PYTHONPATH": str(PEERS.resolve()),
        **system.environ,
    }
    command = [str(python.absolute()), str((PEERS / system.script).resolve()) + ".py"]
    _start(command, port, LOGS / f"{system.name}.log", environ, LOGS)
    return f"{LOOPBACK}:{port}"


def _start(command: list[str], port: int, log: Path, environ: Mapping[str, str], folder: Path) -> None:
    """Run it in `folder` until its port is open."""
    with log.open("w") as lines:
        process = subprocess.Popen(command, env=environ, stdout=lines, stderr=lines, cwd=folder)
    end = time.monotonic() + START_SECONDS
    while not _is_open(port):
        if process.poll() is not None or time.monotonic() > end:
            raise Unavailable(f"it did not start: see {log}")
        time.sleep(0.5)


def _free_port() -> int:
    with socket.socket() as first:
        first.bind((LOOPBACK, 0))
        return int(first.getsockname()[1])


def _is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((LOOPBACK, port)) == 0
