"""Reads what `benchmarks.pairs` wrote."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.rounds import show_table

Level = Mapping[str, Any]
SIDES = ("ours", "other")
Pairs = Mapping[tuple[str, str, int], Sequence[Level]]  # by ours, the other, and requests at a time: the rounds
HEAD = (
    "ours", "other", "at once", "requests/s", "other's", "ours / other's", "in each slice",
    "p50 ms", "other's", "p99 ms", "other's", "core-ms", "other's",
)  # fmt: skip


def group_pairs(figures: Any) -> Pairs:
    """What was measured, pair by pair."""
    groups: dict[tuple[str, str, int], list[Level]] = {}
    for level in figures["levels"] if figures else ():
        groups.setdefault((level["ours"], level["other"], level["at_once"]), []).append(level)
    return groups


def list_ratios(levels: Sequence[Level]) -> Sequence[float]:
    """Ours to the other's requests per second, slice by slice of all rounds."""
    return [ours / other for level in levels for ours, other in level["slices"]]


def list_p99_ratios(levels: Sequence[Level]) -> Sequence[float]:
    """Ours to the other's p99, round by round."""
    return [level["sides"]["ours"]["p99"] / level["sides"]["other"]["p99"] for level in levels]


def show_pairs(figures: Any) -> str:
    """A row for each pair and level: medians of the rounds; of the ratios, the median of all slices and their range."""
    return show_table(HEAD, [_row(*key, levels) for key, levels in group_pairs(figures).items()])


def _row(ours: str, other: str, at_once: int, levels: Sequence[Level]) -> Sequence[str]:
    ratios = list_ratios(levels)
    spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
    rates = [f"{value:.1f}" for value in _both(levels, "per_second")]
    rest = [f"{value:.0f}" for key in ("p50", "p99", "core_ms") for value in _both(levels, key)]
    return (ours, other, f"{at_once}", *rates, f"{statistics.median(ratios):.2f}", spread, *rest)


def _both(levels: Sequence[Level], key: str) -> Sequence[float]:
    """Ours and the other's, the medians of the rounds."""
    return [statistics.median(level["sides"][side][key] for level in levels) for side in SIDES]
