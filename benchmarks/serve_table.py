"""The medians of the service's rounds, as a table."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.rounds import show_table
from benchmarks.systems import WITHOUT_MODEL

Round = Mapping[str, Any]
HEAD = (
    "system", "at once", "requests/s", "p50 ms", "p99 ms", "core-ms", "client", "host", "MB", "errors",
    "best", "matches",
)  # fmt: skip


def show_rounds(rounds: Mapping[str, Sequence[Round]], means: Mapping[str, float]) -> str:
    """A row for each system and level; below it, what client and picture host do alone."""
    rows: list[Sequence[str]] = []
    for name, found in rounds.items():
        if "bare" in found[0]:
            rows += _bare_rows(name, [one["bare"] for one in found])
            continue
        for level in sorted({level for one in found for level in one["levels"]}, key=int):
            rows.append(
                _row(
                    name,
                    level,
                    [one["levels"][level] for one in found if level in one["levels"]],
                    found[0]["agreement"],
                )
            )
    alone = (
        f"the client and the picture host alone: {means['per_second']:.0f} pictures/s, "
        f"{means['client_core_ms']:.3f} and {means['host_core_ms']:.3f} core-ms each"
        if means
        else ""
    )
    return f"{show_table(HEAD, rows)}\n\n{alone}".rstrip()


def median(rounds: Sequence[Round], key: str) -> float:
    """Of a figure over the rounds."""
    return float(statistics.median(one[key] for one in rounds))


def is_sound(rounds: Sequence[Round]) -> bool:
    """Whether every request was answered, and some were."""
    return all(one["requests"] and not one["errors"] and not one["not_2xx"] for one in rounds)


def _show(value: float) -> str:
    return f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def _row(name: str, level: str, rounds: Sequence[Round], agreement: Mapping[str, float]) -> Sequence[str]:
    errors = sum(one["errors"] + one["not_2xx"] for one in rounds)
    keys = ("per_second", "p50", "p99", "core_ms")
    figures = [_show(median(rounds, key)) if is_sound(rounds) else "-" for key in keys]
    costs = [f"{median(rounds, key):.2f}" for key in ("client_core_ms", "host_core_ms")]
    agrees = ["", ""]
    if not name.startswith(WITHOUT_MODEL):
        agrees = [f"{agreement[key]:.0%}" for key in ("same_best", "matches_in_common")]
    memory = f"{max(one['megabytes'] for one in rounds):.0f}"
    return (name, level, *figures, *costs, memory, f"{errors}", *agrees)


def _bare_rows(name: str, rounds: Sequence[Round]) -> list[Sequence[str]]:
    one, eight = median(rounds, "core_ms_at_1"), median(rounds, "core_ms_at_8")
    decode, forward, rested = (median(rounds, key) for key in ("decode_ms", "forward_ms", "rested_forward_ms"))
    blank = ("",) * 6
    return [
        (name, "1", f"{1000 / (decode + forward):.1f}", f"{decode + forward:.1f}", "", f"{one:.1f}", *blank),
        (name, "1, rested", "", f"{decode + rested:.1f}", "", "", *blank),
        (name, "8", f"{median(rounds, 'pictures_per_second'):.1f}", "", "", f"{eight:.1f}", *blank),
    ]
