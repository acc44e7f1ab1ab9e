"""`python -m docs.draw_dashboard`: the dashboard's own queries, answered by a Prometheus, as a picture."""

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from docs.dashboard import Panel, Query, ask_prometheus, read_panels
from serving.program import run_program
from serving.settings import at_least, load_settings, setting

CELL = 0.6  # inches of a column; a row is half as high
FORMS = {
    "percentunit": lambda value: f"{value:.0%}",
    "bytes": lambda value: f"{value / 1e9:.1f} GB",
    "reqps": lambda value: f"{value:g}/s",
    "s": lambda value: f"{value * 1000:g} ms" if value < 1 else f"{value:g} s",
}


@dataclass(frozen=True)
class DrawSettings:
    """Draw the Grafana dashboard from what a Prometheus has seen."""

    prometheus: str = setting("http://127.0.0.1:9090", "its address")
    minutes: float = setting(10.0, "how far back", parse=at_least(0.1, float))
    output: str = setting("docs/images/dashboard.png", "file to write")


def main(argv: Sequence[str], environ: Mapping[str, str]) -> None:
    """Read the settings, ask, draw."""
    settings = load_settings(DrawSettings, "python -m docs.draw_dashboard", "DRAW_", argv, environ)
    draw(settings.prometheus, settings.minutes, Path(settings.output))
    print(settings.output, file=sys.stderr)  # noqa: T201


def draw(prometheus: str, minutes: float, output: Path, window: str = "30s") -> None:
    """Write the picture; what has no data says so."""
    matplotlib.rcParams.update({"font.size": 7, "axes.spines.top": False, "axes.spines.right": False})
    panels = read_panels()
    rows = max(panel.y + panel.height for panel in panels)
    figure = Figure(figsize=(24 * CELL, rows * CELL / 2), layout=None, dpi=90)
    for panel in panels:
        left, bottom = panel.x / 24, 1 - (panel.y + panel.height) / rows
        if panel.kind == "row":
            figure.text(0.008, bottom, panel.title, fontsize=10, fontweight="bold")
        else:
            box = (left + 0.036, bottom + 1.6 / rows, panel.width / 24 - 0.05, (panel.height - 2.9) / rows)
            _draw_panel(figure.add_axes(box), panel, prometheus, minutes, window)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output)


def _draw_panel(axes: Any, panel: Panel, prometheus: str, minutes: float, window: str) -> None:
    axes.set_title(panel.title, loc="left", fontsize=8)
    drawn = [
        _draw_table(axes, query, prometheus, window, position)
        if panel.kind == "table"
        else _draw_lines(axes, query, prometheus, minutes, window)
        for position, query in enumerate(panel.queries)
    ]
    if panel.kind == "table":
        axes.axis("off")
    elif any(drawn):
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.yaxis.set_major_formatter(lambda value, _: FORMS.get(panel.unit, "{:g}".format)(value))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g} min")
        columns = 2 if max(len(line.get_label()) for line in axes.lines) > 20 else 3
        axes.legend(fontsize=6, frameon=False, ncols=columns, loc="upper left", bbox_to_anchor=(-0.02, -0.12))
    else:
        said = f"nothing here. {panel.description}"
        axes.text(0.5, 0.5, said, ha="center", va="center", color="grey", transform=axes.transAxes)
        axes.set_axis_off()


def _draw_lines(axes: Any, query: Query, prometheus: str, minutes: float, window: str) -> bool:
    end = time.time()
    times = {"start": end - minutes * 60, "end": end, "step": max(1.0, minutes / 3)}
    series = ask_prometheus(prometheus, "query_range", query=query.fill(window), **times)["result"]
    for entry in series:
        moments = [(float(moment) - end) / 60 for moment, _ in entry["values"]]  # minutes, up to now
        axes.plot(moments, [float(value) for _, value in entry["values"]], label=query.name(entry["metric"]), lw=1)
    axes.set_xlim(-minutes, 0)
    return bool(series)


def _draw_table(axes: Any, query: Query, prometheus: str, window: str, position: int) -> bool:
    series = ask_prometheus(prometheus, "query", query=query.fill(window))["result"]
    lines = [f"{query.name(entry['metric'])}:  {float(entry['value'][1]):g}" for entry in series]
    axes.text(0, 0.9 - 0.25 * position, "\n".join(lines), va="top", family="monospace")
    return bool(series)


if __name__ == "__main__":
    run_program(main)
