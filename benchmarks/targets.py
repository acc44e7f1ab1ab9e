"""`python -m benchmarks.targets`: what the project promises, beside what was measured last; it measures nothing."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.paired import Pairs, group_pairs, list_p99_ratios, list_ratios
from benchmarks.profiled import added_core_ms, added_ms, find_saturation, group_rounds, share_of_limit
from benchmarks.rounds import read_newest, show_machine, show_table
from benchmarks.served import Served
from benchmarks.systems import EQUALS, IN_BATCHES, LEVEL, WITH_OUR_ENGINE
from benchmarks.workload import ROWS
from serving.errors import ArtefactError
from serving.program import run_program

ENGINES = ("torch fp32", "OpenVINO fp32", "OpenVINO bf16", "OpenVINO int8")
SAME_BEST = 0.98  # share of equal best classes below which a precision counts as another model
DIM = 512
MEASURED = ("serve", "pairs", "profile", "overload", "start", "scale", "halves")
INDEX_MEGABYTES = ROWS * DIM * 4 / 2**20  # as the meter counts them


@dataclass(frozen=True)
class Target:
    """One line: `found` is None where nothing was measured."""

    what: str
    wanted: float
    found: float | None
    unit: str = ""
    most: bool = False  # `wanted` is the most, not the least
    rounds: Sequence[float] = ()  # the same figure in each round, or slice, alone

    @property
    def met(self) -> str:
        """By the medians; not decided where not all rounds say the same; a single run is named."""
        if self.found is None:
            return "not measured"
        is_met, count = self._is_met(self.found), sum(map(self._is_met, self.rounds))
        if count != (len(self.rounds) if is_met else 0):
            return f"undecided, {count} of {len(self.rounds)}"
        return ("yes" if is_met else "no") + ("" if len(self.rounds) > 1 else ", one run")

    def _is_met(self, value: float) -> bool:
        return value <= self.wanted if self.most else value >= self.wanted

    def row(self) -> Sequence[str]:
        """Of the table."""
        wanted = f"{'at most' if self.most else 'at least'} {self.wanted:g}{self.unit}"
        digits = 0 if (self.found or 0) >= 100 else 2
        found = "" if self.found is None else f"{self.found:.{digits}f}{self.unit}"
        return (self.what, wanted, found, self.met)


def main(argv: Sequence[str], environ: Mapping[str, str]) -> None:
    """Print the table."""
    newest = read_all()
    if not any(newest.values()):
        raise ArtefactError("nothing whole was measured yet: make bench-quick")
    for name, found in newest.items():
        print(f"{name}: {show_machine(found['machine']) if found else 'not measured'}")
    print(show_targets(newest))


def read_all() -> dict[str, Any]:
    """What was measured last by each benchmark that has targets."""
    return {name: read_newest(name) for name in MEASURED}


def show_targets(newest: Mapping[str, Any]) -> str:
    """The table."""
    return show_table(("target", "wanted", "measured", "met"), [one.row() for one in list_targets(newest)])


def list_targets(newest: Mapping[str, Any]) -> Iterator[Target]:
    """All of them."""
    served = Served(newest["serve"])
    yield _serve_target(served)
    yield from _pair_targets(group_pairs(newest["pairs"]), served)
    yield from _limit_targets(newest["profile"])
    yield from _overload_targets(newest["overload"])
    yield from _start_targets(newest["start"])
    # The cluster's figures have no two predictors without --pixels.
    both = (newest["scale"], newest["halves"])
    yield from _scale_targets(next((found for found in both if found and "two_predictors" in found), None))


def _serve_target(served: Served) -> Target:
    """Of the precision that is the best in all rounds together."""
    rates = {name: found for name in _find_sound(served) if (found := served.per_second(name, LEVEL))}
    best = max(rates, key=rates.__getitem__, default="")

    def times(rounds: Served) -> float | None:
        return _over(rounds.per_second(best, LEVEL), rounds.per_second("Ray, as written", LEVEL))

    what = "requests/s at 8, best precision that agrees, against Ray as written"
    alone = [found for one in served.split() if (found := times(one)) is not None]
    return Target(what, 1000, times(served), " times", rounds=alone)


def _find_sound(served: Served) -> Sequence[str]:
    """Ours that answer as the reference does."""
    return [name for name in map("ours, {}".format, ENGINES) if served.agreement(name) >= SAME_BEST]


def _pair_targets(pairs: Pairs, served: Served) -> Iterator[Target]:
    """What is beside others, slice by slice of seconds in which both had their turn."""

    def rates(ours: str, others: Sequence[str]) -> list[Sequence[float]]:
        return [list_ratios(pairs.get((ours, other, LEVEL), ())) for other in others]

    def p99s(others: Sequence[str], level: int) -> list[Sequence[float]]:
        return [list_p99_ratios(pairs.get((fp32, other, level), ())) for other in others]

    fp32, mended = "ours, OpenVINO fp32", ("Ray, mended",)
    best = max((rates(ours, mended) for ours in _find_sound(served)), key=_median_of_first, default=())
    yield _judge("requests/s at 8, best precision that agrees, against Ray mended", 20, best)
    yield _judge("the same in fp32", 4, rates(fp32, mended))
    what = "requests/s at 8, OpenVINO fp32, against the best of the others with torch"
    yield _judge(what, 1.3, rates(fp32, EQUALS))
    for precision in ("fp32", "bf16"):
        found = rates(f"ours, OpenVINO {precision}", _name_rivals(precision))
        yield _judge(f"the same with OpenVINO {precision} in theirs, too", 1, found)
    what = "requests/s at 8, torch in ours and in those of the others that batch"
    yield _judge(what, 1, rates("ours, torch fp32", IN_BATCHES))
    for level in (1, 8, 32):
        for which, others in (("torch", EQUALS), ("OpenVINO", _name_rivals("fp32"))):
            what = f"p99 at {level}, OpenVINO fp32 / the lowest of the others with {which}"
            yield _judge(what, 1, p99s(others, level), most=True)


def _median_of_first(beside: Sequence[Sequence[float]]) -> float:
    return statistics.median(beside[0]) if beside[0] else 0.0


def _name_rivals(precision: str) -> Sequence[str]:
    return [f"{name}, OpenVINO {precision}" for name in WITH_OUR_ENGINE]


def _judge(what: str, wanted: float, beside: Sequence[Sequence[float]], most: bool = False) -> Target:
    """By the rival that is most ahead, in each slice or round and on the whole; all rivals must have been measured."""
    choose = max if most else min
    if not beside or not all(beside):
        return Target(what, wanted, None, " times", most)
    rounds = [choose(ratios) for ratios in zip(*beside, strict=False)]
    return Target(what, wanted, choose(map(statistics.median, beside)), " times", most, rounds)


def _limit_targets(figures: Any) -> Iterator[Target]:
    levels = group_rounds(figures)
    shares = [share_of_limit(one) for one in find_saturation(levels, "ours, OpenVINO fp32")]
    what = "throughput at saturation / forward + decode, OpenVINO fp32"
    yield Target(what, 0.9, _median(shares), rounds=shares)
    for engine in ENGINES:
        beyond = [added_core_ms(one) for one in find_saturation(levels, f"ours, {engine}")]
        what = f"core-ms a request at saturation beyond forward + decode, {engine}"
        yield Target(what, 4, _median(beyond), " ms", most=True, rounds=beyond)
    for engine in ENGINES:
        added = [added_ms(one) for one in levels.get((f"ours, {engine}", 1), ())]
        yield Target(f"p50 at 1 less forward less decode, {engine}", 4, _median(added), " ms", most=True, rounds=added)


def _overload_targets(found: Any) -> Iterator[Target]:
    ten = next((rate for rate in found["rates"] if rate["factor"] == 10), None) if found else None
    yield Target("answered at 10 times the capacity / at the peak", 0.9, ten and ten["of_the_peak"])
    for name in ("p50", "p99"):
        refused = ten["refused_ms"].get(name) if ten else None
        yield Target(f"refusals there, {name}", 50, refused, " ms", most=True)


def _start_targets(found: Any) -> Iterator[Target]:
    for name, most in (
        ("transformer", 3.5),
        ("predictor, OpenVINO fp32", 4.5),
        ("predictor, OpenVINO bf16", 4.5),
        ("predictor, OpenVINO int8", 4.5),
        ("predictor, torch", 9.0),
    ):
        rounds = _start_rounds(found, name, "seconds")
        yield Target(f"ready: {name}", most, _median(rounds), " s", most=True, rounds=rounds)
    above = [memory - INDEX_MEGABYTES for memory in _start_rounds(found, "transformer", "megabytes")]
    yield Target("memory of the transformer without its index", 250, _median(above), " MB", most=True, rounds=above)
    for precision, most in (("bf16", 850), ("int8", 500)):
        rounds = _start_rounds(found, f"predictor, OpenVINO {precision}", "megabytes")
        what = f"memory of the predictor, OpenVINO {precision}"
        yield Target(what, most, _median(rounds), " MB", most=True, rounds=rounds)


def _start_rounds(found: Any, name: str, key: str) -> Sequence[float]:
    return found["rounds"].get(name, {}).get(key, ()) if found else ()


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def _scale_targets(found: Any) -> Iterator[Target]:
    two = found["two_predictors"] if found else {}
    ratios, points = two.get("ratios", ()), two.get("points", ())
    yield Target("two predictors with half a core each / one", 1.8, two.get("ratio"), " times", rounds=ratios)
    what = "their shares' distance from even"
    yield Target(what, 5, two.get("points_from_even"), " points", most=True, rounds=points)


def _over(value: float | None, other: float | None) -> float | None:
    return None if value is None or not other else value / other


if __name__ == "__main__":
    run_program(main)
