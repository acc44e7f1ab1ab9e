"""`python -m benchmarks.plots`: a plot of each benchmark's newest figures, beside them."""

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.metering import PARTS
from benchmarks.paired import group_pairs, list_ratios
from benchmarks.profiled import group_rounds, take_core_ms
from benchmarks.rounds import find_newest
from benchmarks.served import Served
from benchmarks.systems import LEVEL, WITHOUT_MODEL
from benchmarks.workload import SMALL
from serving.program import run_program

OURS, THEIRS, LIMIT = "#1f6f8b", "#b5b5b5", "#e0a030"
Figures = Mapping[str, Any]


def main(argv: Sequence[str], environ: Mapping[str, str]) -> None:
    """Draw everything that was measured."""
    for name in PLOTS:
        if file := find_newest(name):
            print(draw(name, json.loads(file.read_text()), file.with_suffix(".png")))


def draw(name: str, figures: Figures, file: Path) -> Path:
    """Draw one benchmark's figures to `file`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    PLOTS[name](figure, figures)
    figure.suptitle(f"{name}: {figures['machine']['processor']}, {figures['machine']['cores']} cores", fontsize=9)
    figure.savefig(file, dpi=110, metadata={"Software": None})
    return file


def _bars(axes: Any, values: Mapping[str, float], title: str, log: bool = False) -> None:
    """Horizontal, the first at the top; ours in a colour of its own."""
    names = list(values)[::-1]
    bars = axes.barh(names, [values[name] for name in names], color=[_colour(name) for name in names])
    axes.bar_label(bars, fmt="%.3g", padding=2, fontsize=7)
    axes.margins(x=0.15)
    axes.set_title(title, fontsize=9)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    if log:
        axes.set_xscale("log")


def _colour(name: str) -> str:
    if name.startswith("bare"):
        return LIMIT
    return OURS if "ours" in name else THEIRS


def _medians(rounds: Mapping[str, Sequence[float]], scale: float = 1.0) -> dict[str, float]:
    return {name: scale * statistics.median(values) for name, values in rounds.items()}


def draw_serve(figure: Any, figures: Figures) -> None:
    """Requests per second, and what each costs."""
    served = Served(figures, SMALL)
    names = [name for name in served.rounds if not name.startswith(WITHOUT_MODEL)]
    bare = {name: found for name in names if (found := served.limit(name))}
    rates = {name: found for name in names if (found := served.per_second(name, LEVEL))} | bare
    costs = {name: found for name in rates if (found := served.figure(name, LEVEL, "core_ms"))}
    costs |= {name: found for name in bare if (found := served.bare(name, "core_ms_at_8"))}
    left, right = figure.subplots(1, 2, sharey=True)
    order = sorted(costs, key=lambda name: -rates[name])
    _bars(left, {name: rates[name] for name in order}, f"requests/s, {LEVEL} at a time")
    _bars(right, {name: costs[name] for name in order}, "core-ms a request")


def draw_pairs(figure: Any, figures: Figures) -> None:
    """Ours to the other's requests per second: the median slice, and the range of all."""
    axes = figure.subplots()
    axes.axvline(1, color=THEIRS)
    for (ours, other, level), found in reversed(list(group_pairs(figures).items())):
        ratios = list_ratios(found)
        name = f"{ours} beside {other}, {level}"
        axes.plot([min(ratios), max(ratios)], [name, name], color=OURS)
        axes.plot(statistics.median(ratios), name, "o", color=OURS)
    axes.set(title="times the other's requests/s", xlim=(0, None))
    axes.tick_params(labelsize=6)


def draw_overload(figure: Any, figures: Figures) -> None:
    """Answers per second, and how quickly the rest is refused."""
    rates = [rate for rate in figures["rates"] if not rate["closed_loop"]]
    left, right = figure.subplots(1, 2)
    offered = [rate["offered"] for rate in rates]
    left.plot(offered, [rate["answered"] for rate in rates], "o-", color=OURS)
    left.set(title="answered/s", xlabel="offered/s", ylim=(0, None))
    refused = [rate for rate in rates if rate["refused_ms"]]
    for name in ("p50", "p99"):
        values = [rate["refused_ms"][name] for rate in refused]
        right.plot([rate["offered"] for rate in refused], values, "o-", label=name)
    right.axhline(50, color=THEIRS, linestyle="--")
    right.set(title="ms until a refusal", xlabel="offered/s", yscale="log")
    right.legend()


def draw_start(figure: Any, figures: Figures) -> None:
    """Seconds until ready, and memory then."""
    left, right = figure.subplots(1, 2, sharey=True)
    _bars(left, _medians({name: one["seconds"] for name, one in figures["rounds"].items()}), "seconds to ready")
    _bars(right, _medians({name: one["megabytes"] for name, one in figures["rounds"].items()}), "MB when ready")


def draw_search(figure: Any, figures: Figures) -> None:
    """Time of one query."""
    _bars(figure.subplots(), _medians(figures["query_seconds"], 1e6), "µs a query", log=True)


def draw_hop(figure: Any, figures: Figures) -> None:
    """Time to the predictor and back."""
    _bars(figure.subplots(), _medians(figures["milliseconds"]), "ms to the predictor and back", log=True)


def draw_model(figure: Any, figures: Figures) -> None:
    """Pictures per second by batch."""
    axes = figure.subplots()
    batches = [int(batch) for batch in figures["seconds"]]
    for name in next(iter(figures["seconds"].values())):
        values = [batch / statistics.median(figures["seconds"][str(batch)][name]) for batch in batches]
        axes.plot(batches, values, "o-", label=name)
    axes.set(title="pictures/s by batch", xticks=batches, ylim=(0, None))
    axes.legend()


def draw_decode(figure: Any, figures: Figures) -> None:
    """Times of the other ways, in ours."""
    axes = figure.subplots()
    pictures = [one["picture"] for one in figures["pictures"]]
    ways = [name for name in figures["pictures"][0]["seconds"] if name != "ours"]
    for number, way in enumerate(ways):
        times = [_medians(one["seconds"]) for one in figures["pictures"]]
        places = [i + 0.8 * number / len(ways) for i in range(len(pictures))]
        axes.barh(places, [one[way] / one["ours"] for one in times], 0.8 / len(ways), label=way)
    axes.axvline(1, color=OURS)
    axes.set(title="times as long as ours", xscale="log", yticks=range(len(pictures)), yticklabels=pictures)
    axes.legend()


def draw_profile(figure: Any, figures: Figures) -> None:
    """Core-ms of a request, one part after the other."""
    axes = figure.subplots()
    grouped = dict(reversed(list(group_rounds(figures).items())))
    names, ends = [f"{name}, {level}" for name, level in grouped], [0.0] * len(grouped)
    for part in PARTS:
        medians = [statistics.median(map(take_core_ms(part), rounds)) for rounds in grouped.values()]
        axes.barh(names, medians, left=ends, label=part)
        ends = [end + median for end, median in zip(ends, medians, strict=True)]
    axes.set(title="core-ms of a request")
    axes.legend()


def draw_halves(figure: Any, figures: Figures) -> None:
    """Answers per second of one and of two."""
    values = {key: [one[key]["per_second"] for one in figures["rounds"]] for key in ("one", "two")}
    _bars(figure.subplots(), _medians(values), "answers/s of predictors with a part of a core each")


def draw_scale(figure: Any, figures: Figures) -> None:
    """Requests per second by replicas of each part."""
    axes = figure.subplots()
    for part in dict.fromkeys(one["part"] for one in figures["levels"]):
        found = [one for one in figures["levels"] if one["part"] == part]
        axes.plot([one["replicas"] for one in found], [one["per_second"] for one in found], "o-", label=part)
    axes.set(title="requests/s", xlabel="replicas", ylim=(0, None))
    axes.legend()


PLOTS: Mapping[str, Callable[[Any, Figures], None]] = {
    "serve": draw_serve,
    "pairs": draw_pairs,
    "search": draw_search,
    "decode": draw_decode,
    "model": draw_model,
    "hop": draw_hop,
    "start": draw_start,
    "profile": draw_profile,
    "overload": draw_overload,
    "halves": draw_halves,
    "scale": draw_scale,
}


if __name__ == "__main__":
    run_program(main)
