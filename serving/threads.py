"""How many CPUs the container may use."""

import math
import os
from pathlib import Path


def cpu_limit(root: Path = Path("/sys/fs/cgroup")) -> int:
    """The smaller of the CPUs this process may run on and the cgroup's quota (v2, then v1), rounded up."""
    allowed = len(os.sched_getaffinity(0))
    quota = _quota_v2(root / "cpu.max") or _quota_v1(root / "cpu")
    return max(1, min(allowed, math.ceil(quota)) if quota else allowed)


def _quota_v2(path: Path) -> float | None:
    fields = _read(path).split()
    if len(fields) != 2 or fields[0] == "max":
        return None
    return int(fields[0]) / int(fields[1])


def _quota_v1(folder: Path) -> float | None:
    quota, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
    if not quota or not period or int(quota) <= 0:
        return None
    return int(quota) / int(period)


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
