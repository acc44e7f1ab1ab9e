"""Programs that a test starts and watches from outside, whether they get ready or not."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from launch import FREE_PORTS, LOOPBACK
from tests.callers import wait_until


@dataclass(frozen=True)
class Program:
    """A process and what it wrote."""

    process: "subprocess.Popen[bytes]"
    output: Path
    log: Path

    def end(self, timeout: float = 60) -> int:
        """Its exit code."""
        return self.process.wait(timeout)

    @property
    def lines(self) -> list[str]:
        """What it wrote to standard error."""
        return self.log.read_text().splitlines()

    def wait_until_it_catches(self, number: signal.Signals) -> None:
        """Wait until a signal has a handler."""
        status = Path(f"/proc/{self.process.pid}/status")

        def catches() -> bool:
            fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
            return bool(int(fields["SigCgt"], 16) >> (number - 1) & 1)

        wait_until(catches, f"a handler for {number.name}")


@contextmanager
def program(
    module: str, flags: Sequence[str], folder: Path, environ: Mapping[str, str] | None = None
) -> Iterator[Program]:
    """`python -m MODULE FLAGS` on loopback, killed at the end of the block if it still runs."""
    name = f"{module}-{len(list(folder.glob('*.log')))}"
    output, log = folder / f"{name}.out", folder / f"{name}.log"
    command = [sys.executable, "-m", module, "--host", LOOPBACK, *FREE_PORTS, *flags]
    with output.open("wb") as out, log.open("wb") as err:
        process = subprocess.Popen(command, stdout=out, stderr=err, env={**os.environ, **(environ or {})})
    try:
        yield Program(process, output, log)
    finally:
        process.kill()
        process.wait()


def free_port() -> int:
    """A port of loopback that nobody has at this moment."""
    with socket.create_server((LOOPBACK, 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
