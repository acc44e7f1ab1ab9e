"""`python -m benchmarks.overload`: what is answered in time when more is asked than can be."""

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import uvloop

from benchmarks.flags import check_names
from benchmarks.metering import DECODE, FORWARD, PREDICTOR_LOOP, TRANSFORMER_LOOP, Meter, measure_parts
from benchmarks.open_loop import Outcome
from benchmarks.rounds import Results, describe_machine, show_machine, show_table, stop_at_signals
from benchmarks.starting import start_ours
from benchmarks.systems import System, list_systems
from benchmarks.trial import picture_host
from benchmarks.workload import SMALL, Workload, make_workload
from serving.program import run_program
from serving.settings import at_least, load_settings, setting

Rates = Sequence[Mapping[str, Any]]
OURS = "ours, OpenVINO fp32"
FACTORS = (0.5, 1.0, 2.0, 5.0, 10.0)  # of the capacity
REFUSED = (429, 503)
AT_ONCE = 16  # requests that find the capacity
PAUSE = 2.0  # seconds between two rates
COSTS = ("servers", "forward", "decode", "loops", "client")  # core-ms of an answer, with what was refused meanwhile
HEAD = (
    "times", "offered/s", "answered/s", "of the peak", "p50 ms", "p99 ms", "refused", "refusal p50 ms",
    "refusal p99 ms", "others", *COSTS,
)  # fmt: skip


@dataclass(frozen=True)
class OverloadSettings:
    """Offer half to ten times of what the service can do."""

    system: str = setting(OURS, "one of those of benchmarks.serve")
    seconds: float = setting(15.0, "of each rate", parse=at_least(1, float))


def main(argv: Sequence[str], environ: Mapping[str, str]) -> None:
    """Find the capacity, then offer multiples of it."""
    settings = load_settings(OverloadSettings, "python -m benchmarks.overload", "BENCH_", argv, environ)
    stop_at_signals()
    systems = list_systems(Workload(), flags=())  # how long a request may take is part of what is measured
    check_names("--system", [settings.system], systems)
    system, workload = systems[settings.system], make_workload()
    machine = describe_machine("kserve", "uvicorn", "openvino")
    results = Results("overload" if settings.system == OURS else "overload-other")  # the targets are about ours

    def keep(rates: Rates) -> None:
        results.write({"machine": machine, "system": settings.system, "rates": rates})

    with picture_host(workload.pictures(SMALL)) as host, system.running(workload) as (address, meter):
        system.wait_until_ready(address, host.urls[0], meter)
        found = uvloop.run(_offer_all(system, address, host.urls, meter, settings.seconds, keep))
    print(show_machine(machine))
    print(show_rates(found))
    print(results.file)


async def _offer_all(
    system: System, address: str, urls: Sequence[str], meter: Meter, seconds: float, keep: Callable[[Rates], None]
) -> Rates:
    """Each rate, and the capacity before each and after the last, as it changes with the machine's other work.

    `keep` is called after each, so that they outlive an interruption.
    """
    client = system.open_client(address, urls)
    await client.find_capacity(AT_ONCE, min(3.0, seconds))  # warms up
    found: list[dict[str, Any]] = []

    def add(rate: dict[str, Any]) -> None:
        found.append(rate)
        keep(_compare_with_peak(found))

    async def ask(factor: float, asking: Awaitable[Outcome], *, closed: bool = False) -> float:
        before = _measure_costs(system, meter)
        outcome = await asking
        after = _measure_costs(system, meter)
        add(_describe(factor, outcome, {part: after[part] - before[part] for part in after}, closed))
        await asyncio.sleep(PAUSE)
        return outcome.goodput

    capacity = await ask(1.0, client.find_capacity(AT_ONCE, seconds), closed=True)
    for factor in FACTORS:
        await ask(factor, client.offer(factor * capacity, seconds))
        capacity = await ask(1.0, client.find_capacity(AT_ONCE, seconds), closed=True)
    return _compare_with_peak(found)


def _measure_costs(system: System, meter: Meter) -> Mapping[str, float]:
    """Seconds of the cores so far; in parts for ours only."""
    costs = {"client": time.process_time(), "servers": meter.cpu_seconds()}
    if system.start is not start_ours:
        return costs
    used = measure_parts(meter)
    loops = used[TRANSFORMER_LOOP] + used[PREDICTOR_LOOP]
    return {**costs, "forward": used[FORWARD], "decode": used[DECODE], "loops": loops}


def _compare_with_peak(rates: Rates) -> Rates:
    """The peak is the median of the capacities."""
    peak = statistics.median(rate["answered"] for rate in rates if rate["closed_loop"])
    return [{**rate, "of_the_peak": rate["answered"] / peak} for rate in rates]


def _describe(factor: float, outcome: Outcome, used: Mapping[str, float], closed: bool) -> dict[str, Any]:
    refused = [ms for status in REFUSED for ms in outcome.taken.get(status, ())]
    answers = max(1, len(outcome.taken.get(200, ())))
    return {
        "factor": factor,
        "closed_loop": closed,
        "offered": outcome.offered,
        "seconds": outcome.seconds,
        "answered": outcome.goodput,
        "statuses": {status: len(found) for status, found in outcome.taken.items()},
        "good_ms": _percentiles(outcome.taken.get(200, [])),
        "refused": len(refused),
        "refused_ms": _percentiles(refused),
        "core_ms": {part: 1000 * seconds / answers for part, seconds in used.items()},
    }


def _percentiles(values: Sequence[float]) -> dict[str, float]:
    if len(values) < 2:
        return {}
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    return {"p50": cuts[49], "p90": cuts[89], "p99": cuts[98]}


def show_rates(rates: Rates) -> str:
    """The table."""
    return show_table(HEAD, [_row(rate) for rate in rates])


def _row(rate: Mapping[str, Any]) -> Sequence[str]:
    others = sum(count for status, count in rate["statuses"].items() if int(status) not in (200, *REFUSED))
    good, refused = (
        [f"{rate[key][name]:.0f}" if rate[key] else "" for name in ("p50", "p99")] for key in ("good_ms", "refused_ms")
    )
    offered = (f"{AT_ONCE} at once", "") if rate["closed_loop"] else (f"{rate['factor']:g}", f"{rate['offered']:.0f}")
    answered = (f"{rate['answered']:.1f}", f"{rate['of_the_peak']:.2f}")
    costs = [f"{rate['core_ms'][part]:.1f}" if part in rate["core_ms"] else "" for part in COSTS]
    return (*offered, *answered, *good, str(rate["refused"]), *refused, str(others), *costs)


if __name__ == "__main__":
    run_program(main)
