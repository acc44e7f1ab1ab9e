"""What a system costs: CPU seconds and memory of all its processes, daemons included."""

import os
import resource
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

MARK = "BENCHMARK_SYSTEM"
TICKS = os.sysconf("SC_CLK_TCK")
FORWARD, DECODE, TRANSFORMER_LOOP, PREDICTOR_LOOP = "forward", "decode", "transformer's loop", "predictor's loop"
PARTS = (FORWARD, DECODE, TRANSFORMER_LOOP, PREDICTOR_LOOP)  # of ours
RESET_PEAK = "5"  # what /proc/PID/clear_refs takes to begin a new high-water mark (proc_pid_clear_refs(5))


@dataclass(frozen=True)
class Meter:
    """Finds a system's processes by a mark in their environment, which children inherit and daemons keep."""

    mark: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def environ(self) -> Mapping[str, str]:
        """What the system must be started with."""
        return {**os.environ, MARK: self.mark}

    def processes(self) -> Iterator[psutil.Process]:
        """All that run now."""
        wanted = f"{MARK}={self.mark}".encode()
        for pid in psutil.pids():
            with suppress(OSError, psutil.Error):
                if wanted in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                    yield psutil.Process(pid)

    def cpu_seconds(self) -> float:
        """Used so far by those that run, and by their children that have ended."""
        return sum(_cpu_seconds(process.pid) for process in self.processes())

    def megabytes(self) -> float:
        """Resident memory, pages that processes share counted once."""
        return sum(_proportional(process.pid) for process in self.processes()) / 2**20

    def reset_peak(self) -> None:
        """Let `peak_megabytes` begin anew."""
        for process in self.processes():
            with suppress(OSError):
                Path(f"/proc/{process.pid}/clear_refs").write_text(RESET_PEAK)

    def peak_megabytes(self) -> float:
        """At most as much was resident since the reset: what is, and how far each process has been above that."""
        above = sum(_above_now(process.pid) for process in self.processes())
        return self.megabytes() + above / 2**10

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Its processes get no core for the time of the block, but where they are resumed in it."""
        try:
            self._tell(psutil.Process.suspend)
            yield
        finally:
            self._tell(psutil.Process.resume)

    @contextmanager
    def resumed(self) -> Iterator[None]:
        """Those that are suspended get cores for the time of the block."""
        self._tell(psutil.Process.resume)
        try:
            yield
        finally:
            self._tell(psutil.Process.suspend)

    def _tell(self, what: Callable[[psutil.Process], object]) -> None:
        for process in self.processes():
            with suppress(psutil.Error):
                what(process)

    def stop(self, patience: float = 5) -> None:
        """SIGTERM, then SIGKILL to those that are left: some systems leave daemons behind."""
        for end in (psutil.Process.terminate, psutil.Process.kill):
            self._tell(end)
            self._tell(psutil.Process.resume)  # what is suspended would not notice
            limit = time.monotonic() + patience
            while any(self.processes()) and time.monotonic() < limit:
                time.sleep(0.2)


def children_cpu_seconds() -> float:
    """Used by this process's children that it has waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure_parts(meter: Meter) -> dict[str, float]:
    """Seconds of the cores for each part of ours: the loops are first threads, all other threads compute."""
    used = dict.fromkeys(PARTS, 0.0)
    for process in meter.processes():
        parts = (TRANSFORMER_LOOP, DECODE) if "transformer" in process.cmdline() else (PREDICTOR_LOOP, FORWARD)
        for part, seconds in zip(parts, split_seconds(process.pid), strict=True):
            used[part] += seconds
    return used


def split_seconds(pid: int) -> tuple[float, float]:
    """CPU seconds of a process's first thread, and of all others, those that have ended included."""
    first = _read_seconds(Path(f"/proc/{pid}/task/{pid}/stat"), 2)
    return first, max(0.0, _read_seconds(Path(f"/proc/{pid}/stat"), 2) - first)


def _cpu_seconds(pid: int) -> float:
    return _read_seconds(Path(f"/proc/{pid}/stat"), 4)


def _read_seconds(stat: Path, fields: int) -> float:
    """The sum of as many of utime, stime, cutime and cstime; 0 for what has ended."""
    with suppress(OSError):
        return sum(int(value) for value in stat.read_text().rsplit(")", 1)[1].split()[11 : 11 + fields]) / TICKS
    return 0.0


def _proportional(pid: int) -> float:
    with suppress(OSError, psutil.Error):
        return float(psutil.Process(pid).memory_full_info().pss)
    return 0.0


def _above_now(pid: int) -> int:
    """Kilobytes between the high-water mark and now."""
    with suppress(OSError, ValueError, KeyError):
        lines = (line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        found = {name: value.split()[0] for name, value in lines if name in ("VmHWM", "VmRSS")}
        return max(0, int(found["VmHWM"]) - int(found["VmRSS"]))
    return 0
