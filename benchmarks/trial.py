"""Starts systems one after the other, compares their answers and loads them; keeps what was measured."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.agreement import Answer, compare, read_reference
from benchmarks.limit import ALONE, BATCHES, RESTED, running_bare
from benchmarks.load import Unavailable, load_pictures
from benchmarks.metering import Meter
from benchmarks.plans import BARE, SLOW, Part
from benchmarks.systems import System, list_systems
from benchmarks.workload import Workload
from launch import StartError

Round = dict[str, Any]
WARM_UP = (8, 2.0)  # requests at a time, seconds: every size of a batch comes once
SETTLING = 5.0  # seconds, at most
LOOKING = 0.3  # seconds, in which
QUIET = 0.03  # of a core's seconds are what a system without requests uses
FAILURES = (
    Unavailable,
    StartError,
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AssertionError,
    subprocess.SubprocessError,
)


@dataclass(frozen=True)
class PictureHost:
    """Serves a folder of pictures from a process of its own, which is metered apart from the systems."""

    urls: Sequence[str]
    meter: Meter


@contextmanager
def picture_host(folder: Path) -> Iterator[PictureHost]:
    """One for the time of the block."""
    meter = Meter()
    command = [sys.executable, "-m", "benchmarks.picture_host", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=meter.environ)
    assert process.stdout
    try:
        address = process.stdout.readline().strip()
        yield PictureHost([f"http://{address}/{path.name}" for path in sorted(folder.iterdir())], meter)
    finally:
        process.kill()
        process.wait()


def settle(meter: Meter) -> None:
    """Until what the load before left unanswered is done: it would count as the next one's."""
    end = time.monotonic() + SETTLING
    while time.monotonic() < end:
        before = meter.cpu_seconds()
        time.sleep(LOOKING)
        if meter.cpu_seconds() - before <= QUIET:
            return


class Trial:
    """The rounds of one part."""

    def __init__(self, part: Part, workload: Workload, keep: Callable[[], object] = lambda: None) -> None:
        """`keep` is called after each system, so that what was measured outlives an interruption."""
        self._part, self._workload, self._keep = part, workload, keep
        self.rounds: dict[str, list[Round]] = {}
        self.skipped: dict[str, str] = {}
        self.means: Round = {}  # of measuring: client and picture host, with nothing between them

    def run(self) -> None:
        """All rounds of all systems, in turn."""
        systems = list_systems(self._workload)
        names = self._part.systems or [name for name in (*BARE, *systems) if name not in self._part.without]
        with picture_host(self._workload.pictures(self._part.pictures)) as host:
            self.measure_means(host)
            for number in range(self._part.rounds):
                for name in names:
                    print(f"{self._part.pictures}, round {number + 1}: {name}", file=sys.stderr, flush=True)
                    self.measure_one(name, systems, host)
                    self._keep()

    def measure_one(self, name: str, systems: Mapping[str, System], host: PictureHost) -> None:
        """A system, or the bare limit; a precision that could not be exported here is a reason to skip it."""
        folder = self._workload.root / BARE[name][0] if name in BARE else systems[name].exported
        if folder and not folder.exists():
            self.skipped[name] = f"no {folder.name}: this processor or requirements/export.txt lacks what it takes"
        elif name in BARE:
            self.measure_bare(name)
        else:
            self.measure(systems[name], host)

    def measure(self, system: System, host: PictureHost) -> None:
        """Start it, compare its answers, load it; what keeps it from running is a reason to skip it."""
        if system.name in self.skipped:
            return
        try:
            with system.running(self._workload) as (address, meter):
                system.wait_until_ready(address, host.urls[0], meter)
                figures: Round = {"settings": json.loads(system.environ.get("SETTINGS", "{}"))}
                figures["agreement"] = self.compare(system, address, host)
                if self._part.concurrency and system.name != SLOW:
                    system.load(address, host.urls, *WARM_UP)
                figures["levels"] = {
                    str(level): self.load(system, address, meter, host, level) for level in self._part.concurrency
                }
                self.rounds.setdefault(system.name, []).append(figures)
        except FAILURES as error:
            self.skipped[system.name] = " ".join(str(error).split())[:500] or type(error).__name__

    def compare(self, system: System, address: str, host: PictureHost) -> dict[str, float]:
        """With the reference, on fewer pictures after the first round."""
        count = 2 if system.name == SLOW else 4 if system.name in self.rounds else self._part.compared
        reference: Mapping[str, Answer] = read_reference(self._workload, self._part.pictures)
        urls = host.urls[:count]
        return compare([(system.ask(address, url), reference[url.rsplit("/", 1)[1]]) for url in urls])

    def load(self, system: System, address: str, meter: Meter, host: PictureHost, level: int) -> Round:
        """Requests, and what they cost everybody."""
        settle(meter)
        meter.reset_peak()
        before, host_before = meter.cpu_seconds(), host.meter.cpu_seconds()
        load = system.load(address, host.urls, level, self._seconds(level))
        used, host_used = meter.cpu_seconds() - before, host.meter.cpu_seconds() - host_before
        good = load["requests"] - load["not_2xx"]
        return {
            **load,
            "per_second": good / load["seconds"],
            "core_ms": 1000 * used / max(1, good),
            "host_core_ms": 1000 * host_used / max(1, good),
            "megabytes": meter.peak_megabytes(),
            "machine_load": os.getloadavg()[0],
        }

    def _seconds(self, level: int) -> float:
        """Longer where many wait, or hardly one would be answered twice."""
        return self._part.seconds * (3 if level >= 128 else 1.5 if level >= 32 else 1)

    def measure_bare(self, name: str) -> None:
        """Forward and decode in one process, without a server."""
        if not self._part.concurrency:
            return
        folder, engine = BARE[name]
        pictures, seconds = self._workload.pictures(self._part.pictures), self._part.seconds
        with running_bare(self._workload.root / folder, engine, pictures) as limit:
            plan = {ALONE: seconds, RESTED: seconds / 2, BATCHES: seconds}
            found = {key: value for what in plan for key, value in limit(what, plan[what]).items()}
        self.rounds.setdefault(name, []).append({"bare": found})

    def measure_means(self, host: PictureHost) -> None:
        """What client and picture host can do and cost, so that nobody has to trust them."""
        before = host.meter.cpu_seconds()
        load = load_pictures(host.urls, 8, 2)
        used = host.meter.cpu_seconds() - before
        self.means = {
            "per_second": load["requests"] / load["seconds"],
            "client_core_ms": load["client_core_ms"],
            "host_core_ms": 1000 * used / max(1, load["requests"]),
        }
