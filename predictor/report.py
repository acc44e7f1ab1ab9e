"""What an export measured, for people: tables for the terminal, and a table and a plot of the held-out pictures."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from predictor.exported import AGREEMENT_FOLDER, Exported, HeldOut, Measured
from predictor.held_out import Check, K, N


def table(exported: Exported) -> list[str]:
    """How near and how fast each precision is on drawn pictures."""
    head = "precision  cosine median  cosine min  probability off by  same best class  pictures/s at 1     at 8"
    return [f"on {exported.processor}", head, *(_row(one) for one in exported.measured)]


def _row(one: Measured) -> str:
    found = one.agreement
    return (
        f"{one.precision:9}  {found.cosine_median:13.6f}  {found.cosine_min:10.6f}  {found.largest_difference:18.6f}"
        f"  {found.same_top:15.0%}  {one.one_at_a_time:15.1f}  {one.eight_at_once:7.1f}"
    )


def held_out_table(exported: Exported) -> list[str]:
    """How near each precision is to torch in float32 on held-out pictures; empty without any."""
    thresholds, found = exported.thresholds, exported.held_out
    if thresholds is None or not found:
        return []
    head = ("precision", "cosine median", "cosine 5 %", "same best class", f"same matches (k={K}, n={N})", "passes")
    rows = [head, ("---", "---:", "---:", "---:", "---:", "---"), *(_cells(exported, one) for one in found)]
    return [
        f"on {found[0].pictures} held-out pictures, beside torch in float32 (int8 calibrated with "
        f"{exported.calibrated_with} others); at least {thresholds.cosine_median} and {thresholds.same_top} to pass",
        "",
        *("| " + " | ".join(row) + " |" for row in rows),
    ]


def _cells(exported: Exported, one: HeldOut) -> Sequence[str]:
    matches = "no index" if one.same_matches is None else f"{one.same_matches:.1%}"
    best = f"{one.same_top:.1%}" if exported.classes else "no head"
    passes = "yes" if exported.thresholds and exported.thresholds.passes(one) else "no"
    return one.precision, f"{one.cosine_median:.5f}", f"{one.cosine_low:.5f}", best, matches, passes


def write_report(exported: Exported, checks: Sequence[Check], directory: Path) -> None:
    """Write DIRECTORY/agreement/: the table, and the cosines as a plot."""
    folder = directory / AGREEMENT_FOLDER
    folder.mkdir()
    (folder / "agreement.md").write_text("\n".join(held_out_table(exported)) + "\n")
    assert exported.thresholds
    draw_cosines(checks, exported.thresholds.cosine_median).savefig(folder / "agreement.png", dpi=120)


def draw_cosines(checks: Sequence[Check], least: float) -> Figure:
    """The held-out pictures of each precision, sorted by their cosine: a curve that falls early is a bad one."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for check in checks:
        share = (np.arange(len(check.cosines)) + 0.5) / len(check.cosines)
        axes.plot(share, np.sort(check.cosines), label=check.found.precision, drawstyle="steps-mid")
    axes.axhline(least, color="grey", linestyle="--", label="least median")
    axes.axvline(0.5, color="grey", linewidth=0.5)
    axes.set_xlabel("share of the held-out pictures")
    axes.set_ylabel("cosine to the float32 embedding")
    axes.legend(loc="lower right")
    return figure
