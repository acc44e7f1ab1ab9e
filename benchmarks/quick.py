"""`python -m benchmarks.quick`: what the targets need, in 90 minutes on an idle machine of two cores.

Ctrl-C ends it early, and the targets are shown with what was measured until then.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from benchmarks.rounds import stop_at_signals
from serving.errors import ArtefactError
from serving.program import run_program
from serving.settings import at_least, load_settings, setting

LEFT_FOR_SHOWING = 30.0  # seconds
PATIENCE = 60.0  # seconds for one that is interrupted to stop its servers
STEPS: Sequence[tuple[str, ...]] = (
    ("overload",),
    ("start",),
    ("profile",),
    ("pairs",),
    ("halves", "--seconds", "6"),
    ("serve", "--plan", "quick"),
)


@dataclass(frozen=True)
class QuickSettings:
    """Overload, start, the limit, the others, a second predictor, and everything side by side."""

    minutes: float = setting(90.0, "after which it ends with what was measured", parse=at_least(1, float))
    docs: bool = setting(False, "write the figures into docs/benchmarks.md and docs/images, too")


def main(argv: Sequence[str], environ: Mapping[str, str]) -> None:
    """Run the benchmarks one after the other, then show targets and plots; raises ArtefactError if one failed."""
    settings = load_settings(QuickSettings, "python -m benchmarks.quick", "BENCH_", argv, environ)
    stop_at_signals()
    end = time.monotonic() + 60 * settings.minutes - LEFT_FOR_SHOWING
    failed: list[str] = []
    try:
        for name, *flags in STEPS:
            if _run(name, flags, end - time.monotonic()):
                failed.append(name)
    finally:
        for name in ("plots", "targets", *(["page"] if settings.docs else [])):
            if subprocess.run([sys.executable, "-m", f"benchmarks.{name}"]).returncode:
                failed.append(name)
    if failed:
        raise ArtefactError(f"failed: {', '.join(failed)}")


def _run(name: str, flags: Sequence[str], seconds: float) -> int:
    """Its exit code; 0 when there was no time for all of it."""
    if seconds <= 0:
        print(f"{name}: no time left", file=sys.stderr)
        return 0
    print(f"{name}: load {os.getloadavg()[0]:.1f}, {seconds / 60:.0f} minutes left", file=sys.stderr, flush=True)
    # In a session of its own, so that Ctrl-C comes to it once, from here.
    process = subprocess.Popen([sys.executable, "-m", f"benchmarks.{name}", *flags], start_new_session=True)
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        print(f"{name}: no time left for all of it", file=sys.stderr)
        _interrupt(process)
        return 0
    except KeyboardInterrupt:
        _interrupt(process)
        raise


def _interrupt(process: "subprocess.Popen[bytes]") -> None:
    """Let it stop what it started; what it measured until then is written down already."""
    process.send_signal(signal.SIGINT)
    with suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
        process.wait(PATIENCE)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # its session: what did not end by itself
    process.wait()


if __name__ == "__main__":
    run_program(main)
