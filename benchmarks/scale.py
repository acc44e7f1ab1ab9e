"""`python -m benchmarks.scale --namespace NS`: an installed release on the cluster of KUBECONFIG with 1, 2 and 4 pods.

Its pods need CPU limits, or the first one has the whole node already. INGRESS names the front door where KServe's
Gateway does not. The release has the replicas that it had before when the measuring has ended.
"""

import asyncio
import functools
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import uvloop

from benchmarks.open_loop import OpenLoop, encode_post
from benchmarks.pixel_load import feed, points_from_even
from benchmarks.release import PARTS, PORTS, ScaledRelease, find_gateway
from benchmarks.rounds import Results, describe_machine, show_machine, show_table
from dogs import BREEDS, draw_dog
from serving.program import run_program
from serving.settings import at_least, load_settings, one_of, setting

SETTLE = 35.0  # seconds: the servers' --max_connection_age_seconds, after which clients have looked for pods again


@dataclass(frozen=True)
class ScaleSettings:
    """Measure throughput, and each pod's share of it, by the number of pods of each part."""

    namespace: str = setting("doggos", "of the release")
    release: str = setting("doggos", "its name")
    replicas: str = setting("1,2,4", "pods of a part, with commas; the other part has the most of them")
    part: str = setting("both", "what is scaled: predictor, transformer or both", parse=one_of("both", *PARTS))
    at_once: int = setting(16, "requests at a time for each pod", parse=at_least(1))
    seconds: float = setting(20.0, "of each measurement", parse=at_least(1, float))
    pixels: bool = setting(
        False, "feed pixels to one and to two predictors, too: their pods' addresses must be in reach"
    )


def main(argv: Sequence[str], environ: Mapping[str, str]) -> None:
    """Scale, measure, print and write down."""
    settings = load_settings(ScaleSettings, "python -m benchmarks.scale", "BENCH_", argv, environ)
    release = ScaledRelease(settings.namespace, settings.release)
    request = encode_post(release.find_host(), "/predict/?k=2&n=3", "image/jpeg", _draw_picture())
    connect = functools.partial(OpenLoop, environ.get("INGRESS") or find_gateway(), [request])
    machine = describe_machine("aiohttp")
    limits = {part: release.cpu_limit(part) for part in PARTS}
    figures: dict[str, Any] = {"machine": machine, "cpu_limits": limits, "levels": []}
    results = Results("scale")
    with release.restored():
        for part in PARTS if settings.part == "both" else (settings.part,):
            for level in _measure_part(release, connect, part, settings):
                figures["levels"].append(level)
                results.write(figures)
        if settings.pixels:
            figures["two_predictors"] = _feed_two(release, settings.seconds)
            results.write(figures)
    print(show_machine(machine), f"CPU limits {limits}")
    print(show_table(("part", "pods", "requests/s", "shares", "failed"), [_row(one) for one in figures["levels"]]))
    print(figures.get("two_predictors", ""))
    print(results.file)


def _draw_picture() -> bytes:
    file = io.BytesIO()
    draw_dog(BREEDS["rose_retriever"], "cluster").save(file, "JPEG")
    return file.getvalue()


def _measure_part(
    release: ScaledRelease, connect: Callable[[], OpenLoop], part: str, settings: ScaleSettings
) -> Iterator[dict[str, Any]]:
    counts = [int(number) for number in settings.replicas.split(",")]
    release.scale(next(other for other in PARTS if other != part), max(counts))
    for replicas in counts:
        release.scale(part, replicas)
        at_once = settings.at_once * replicas
        yield uvloop.run(_measure(release, connect(), part, at_once, settings.seconds))


async def _measure(release: ScaledRelease, client: OpenLoop, part: str, at_once: int, seconds: float) -> dict[str, Any]:
    await client.find_capacity(at_once, SETTLE)
    before = await asyncio.to_thread(release.count, part)
    outcome = await client.find_capacity(at_once, seconds)
    after = await asyncio.to_thread(release.count, part)
    counts = [after[pod] - before.get(pod, 0.0) for pod in after]
    return {
        "part": part,
        "replicas": len(after),
        "per_second": outcome.goodput,
        "shares": [100 * count / (sum(counts) or 1.0) for count in counts],
        "failed": sum(len(found) for status, found in outcome.taken.items() if status != 200),
    }


def _feed_two(release: ScaledRelease, seconds: float) -> dict[str, float]:
    """One predictor, then two, without a transformer between."""
    rates = []
    for replicas in (1, 2):
        release.scale("predictor", replicas)
        addresses = [f"{pod['status']['podIP']}:{PORTS['http']}" for pod in release.pods("predictor")]
        fed = asyncio.run(feed(addresses, seconds, lambda: release.count("predictor")))
        rates.append(fed["per_second"])
    return {"ratio": rates[1] / rates[0], "points_from_even": points_from_even(fed["shares"])}


def _row(level: Mapping[str, Any]) -> Sequence[str]:
    shares = " / ".join(f"{share:.0f} %" for share in level["shares"])
    return (level["part"], str(level["replicas"]), f"{level['per_second']:.1f}", shares, str(level["failed"]))


if __name__ == "__main__":
    run_program(main)
