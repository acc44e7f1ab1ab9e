"""`python -m benchmarks.halves`: what a second predictor brings when each has half a core, without a cluster.

Pixels go straight to the predictors, so that the transformer and the network are not what is measured.
"""

import asyncio
import functools
import statistics
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from benchmarks.cpu_quota import cpu_quota
from benchmarks.load import Unavailable
from benchmarks.pixel_load import feed, points_from_even, sum_requests
from benchmarks.rounds import Results, describe_machine, show_machine, show_table, stop_at_signals
from benchmarks.starting import LOGS
from benchmarks.workload import make_workload
from launch import Server, running
from serving.errors import ArtefactError
from serving.program import run_program
from serving.settings import at_least, load_settings, setting


@dataclass(frozen=True)
class HalvesSettings:
    """Feed one predictor, then two, each held to a share of a core."""

    cores: float = setting(0.5, "of each predictor", parse=at_least(0.05, float))
    seconds: float = setting(15.0, "of each measurement", parse=at_least(1, float))
    rounds: int = setting(3, "rounds of one and two", parse=at_least(1))


def main(argv: Sequence[str], environ: Mapping[str, str]) -> None:
    """Measure, print and write down."""
    settings = load_settings(HalvesSettings, "python -m benchmarks.halves", "BENCH_", argv, environ)
    stop_at_signals()
    flags = ["--model_dir", str(make_workload().exported("fp32")), "--threads", "1"]
    machine, results = describe_machine("openvino", "aiohttp"), Results("halves")
    rounds: list[dict[str, Any]] = []
    LOGS.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        servers = [stack.enter_context(running("predictor", flags, LOGS / f"half-{i}.log")) for i in range(2)]
        try:
            for server in servers:
                stack.enter_context(cpu_quota(settings.cores, server.process.pid))
        except Unavailable as error:
            raise ArtefactError(str(error)) from None
        for _ in range(settings.rounds):
            rounds.append(_measure(servers, settings.seconds))
            two = _compare_two(rounds)
            results.write({"machine": machine, "rounds": rounds, "two_predictors": two})
    print(show_machine(machine))
    print(show_halves(rounds))
    print(f"two / one: {two['ratio']:.2f}; {two['points_from_even']:.1f} points from even")
    print(results.file)


def _compare_two(rounds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """With one: each round's figures, and their medians."""
    ratios = [one["two"]["per_second"] / one["one"]["per_second"] for one in rounds]
    points = [points_from_even(one["two"]["shares"]) for one in rounds]
    medians = {"ratio": statistics.median(ratios), "points_from_even": statistics.median(points)}
    return {**medians, "ratios": ratios, "points": points}


def show_halves(rounds: Sequence[Mapping[str, Any]]) -> str:
    """The table of medians."""
    return show_table(("predictors", "answers/s", "shares"), [_row(rounds, key) for key in ("one", "two")])


def _measure(servers: Sequence[Server], seconds: float) -> dict[str, Any]:
    return {
        name: asyncio.run(feed([server.http for server in some], seconds, functools.partial(_count, some)))
        for name, some in (("one", servers[:1]), ("two", servers))
    }


def _count(servers: Sequence[Server]) -> dict[str, float]:
    return {server.http: _read_counter(server.metrics) for server in servers}


def _read_counter(address: str) -> float:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=30) as answer:
        return sum_requests(answer.read().decode())


def _row(rounds: Sequence[Mapping[str, Any]], key: str) -> Sequence[str]:
    per_second = statistics.median(one[key]["per_second"] for one in rounds)
    middle = sorted(rounds, key=lambda one: points_from_even(one[key]["shares"]))[len(rounds) // 2]
    shares = " / ".join(f"{share:.1f} %" for share in middle[key]["shares"])
    return (key, f"{per_second:.1f}", shares)


if __name__ == "__main__":
    run_program(main)
