"""Reads what `benchmarks.profile` wrote: what a request takes, and what of it is beyond the bare limit."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.metering import DECODE, FORWARD, PARTS
from benchmarks.rounds import show_table

# decode: with the wait for a thread; beyond: all but decode and forward, so with the queue.
STAGES = ("whole", "download", "decode", "hop", "queue", "forward", "search", "rest", "beyond")
Round = Mapping[str, Any]  # `bare` and `ours`, measured in turn
Figure = Callable[[Round], float]
Levels = Mapping[tuple[str, int], Sequence[Round]]  # by system and requests at a time
HEAD = ("system", "at once")
BESIDE_BARE = (
    "requests/s", "of bare", "ms", "ms above bare", "computing", "core-ms", "core-ms above bare", "computing",
)  # fmt: skip


def group_rounds(figures: Any) -> Levels:
    """The rounds of each system at each level."""
    grouped: dict[tuple[str, int], list[Round]] = {}
    for one in figures["levels"] if figures else ():
        grouped.setdefault((one["system"], one["at_once"]), []).append(one)
    return grouped


def find_saturation(levels: Levels, system: str) -> Sequence[Round]:
    """The rounds of the level at which it answers most; none where it was not measured."""
    rounds = [found for (name, _), found in levels.items() if name == system]
    return max(rounds, key=lambda found: statistics.median(map(per_second, found)), default=())


def per_second(one: Round) -> float:
    """Requests."""
    return float(one["ours"]["per_second"])


def share_of_limit(one: Round) -> float:
    """Answers for each picture that bare decodes and computes in the same time."""
    if "pictures_per_second" in one["bare"]:
        return per_second(one) / float(one["bare"]["pictures_per_second"])
    return _bare_ms(one) / _p50(one)  # medians, both


def added_ms(one: Round) -> float:
    """What a request alone takes for its caller, less bare's decode and forward."""
    return _p50(one) - _bare_ms(one)


def _bare_ms(one: Round) -> float:
    return float(one["bare"]["decode_ms"] + one["bare"]["forward_ms"])


def added_computing_ms(one: Round) -> float:
    """What decode and forward take longer than in bare."""
    return take_ms("decode")(one) + take_ms("forward")(one) - _bare_ms(one)


def take_ms(stage: str) -> Figure:
    """Of a request in ours."""
    return lambda one: float(one["ours"]["milliseconds"][stage])


def take_core_ms(part: str) -> Figure:
    """Of a request in ours."""
    return lambda one: float(one["ours"]["core_ms"][part])


def core_ms(one: Round) -> float:
    """Of a request in both servers."""
    return float(sum(one["ours"]["core_ms"].values()))


def added_core_ms(one: Round) -> float:
    """What a request costs beyond bare."""
    return core_ms(one) - _bare_core_ms(one)


def added_computing_core_ms(one: Round) -> float:
    """What decode and forward cost more than in bare."""
    return take_core_ms(DECODE)(one) + take_core_ms(FORWARD)(one) - _bare_core_ms(one)


def _bare_core_ms(one: Round) -> float:
    return float(one["bare"]["core_ms_at_8" if "core_ms_at_8" in one["bare"] else "core_ms_at_1"])


def show_profile(figures: Any) -> str:
    """Three tables, medians of the rounds: beside bare, milliseconds of a request, and of the cores."""
    limits, times, costs = list[list[str]](), list[list[str]](), list[list[str]]()
    for (name, level), rounds in group_rounds(figures).items():
        head = [name, str(level)]
        limits.append(head + _show_limit(rounds, level))
        times.append(head + [_show(rounds, take_ms(stage)) for stage in STAGES])
        shares = _show(rounds, lambda one: 100 * take_core_ms(FORWARD)(one) / core_ms(one))
        costs.append(head + [_show(rounds, take_core_ms(part)) for part in PARTS] + [shares])
    tables = (((*HEAD, *BESIDE_BARE), limits), ((*HEAD, *STAGES), times), ((*HEAD, *PARTS, "forward %"), costs))
    return "\n\n".join(show_table(*table) for table in tables)


def _show_limit(rounds: Sequence[Round], level: int) -> list[str]:
    waits = [_show(rounds, one) if level == 1 else "" for one in (_p50, added_ms, added_computing_ms)]
    costs = [_show(rounds, one) for one in (core_ms, added_core_ms, added_computing_core_ms)]
    return [_show(rounds, per_second), _show(rounds, share_of_limit, 2), *waits, *costs]


def _p50(one: Round) -> float:
    return float(one["ours"]["p50"])


def _show(rounds: Sequence[Round], figure: Figure, digits: int = 1) -> str:
    return f"{statistics.median(map(figure, rounds)):.{digits}f}"
