"""Holds processes to a share of a core with the kernel's own quota, as a pod's CPU limit does."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.load import Unavailable

ROOT = Path("/sys/fs/cgroup")
PERIOD = 100_000  # microseconds, Kubernetes' own


@contextmanager
def cpu_quota(cores: float, *pids: int) -> Iterator[None]:
    """For the time of the block; raises Unavailable where control groups cannot be written."""
    group = _make_group(round(cores * PERIOD))
    try:
        for pid in pids:
            (group / "cgroup.procs").write_text(str(pid))
        yield
    finally:
        for left in (group / "cgroup.procs").read_text().split():  # whoever still runs leaves first
            (group.parent / "cgroup.procs").write_text(left)
        group.rmdir()


def _make_group(quota: int) -> Path:
    """Version 2 where it has the cpu controller, else version 1."""
    second = (ROOT / "cgroup.controllers").exists()
    group = (ROOT if second else ROOT / "cpu") / f"doggos-{uuid.uuid4().hex[:8]}"
    try:
        if second and "cpu" not in (ROOT / "cgroup.subtree_control").read_text().split():
            (ROOT / "cgroup.subtree_control").write_text("+cpu")
        group.mkdir()
        limits = {"cpu.max": f"{quota} {PERIOD}"} if second else {"cpu.cfs_quota_us": str(quota)}
        for name, text in limits.items():
            (group / name).write_text(text)
    except OSError as error:
        reason = os.strerror(error.errno or 0).lower()
        raise Unavailable(f"{group.parent} cannot be written ({reason}): run as root, outside of a container") from None
    return group
