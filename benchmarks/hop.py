"""`python -m benchmarks.hop`: what the way to the predictor adds to the model, and what other ways would add.

The predictor's engine answers at once, so that the whole time is the hop's.
"""

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import orjson

from benchmarks.rounds import describe_machine, show_machine, show_table, write_results
from benchmarks.starting import LOGS
from benchmarks.workload import make_workload
from contract import MODEL_NAME, Pixels
from launch import FREE_PORTS, Server, running
from serving.call import Call
from serving.deadline import Deadline
from serving.program import run_program
from serving.settings import at_least, load_settings, setting
from transformer.channel import PredictorChannel, open_channel
from transformer.target import GRPC, REST

Way = Callable[[Pixels], Awaitable[object]]


@dataclass(frozen=True)
class HopSettings:
    """Time the hop from a transformer to a predictor."""

    calls: int = setting(40, "calls of each way in a round", parse=at_least(1))
    rounds: int = setting(7, "rounds, in each of which every way takes its turn", parse=at_least(1))


def main(argv: Sequence[str], environ: Mapping[str, str]) -> None:
    """Start a predictor, time every way to it, print and write the figures."""
    settings = load_settings(HopSettings, "python -m benchmarks.hop", "BENCH_", argv, environ)
    flags = [*FREE_PORTS, "--model_dir", str(make_workload().exported("fp32"))]
    LOGS.mkdir(parents=True, exist_ok=True)
    with running("benchmarks.instant_predictor", flags, Path(LOGS, "hop.log")) as predictor:
        rounds = asyncio.run(_measure(predictor, settings))
    figures: dict[str, Any] = {"machine": describe_machine("grpcio", "aiohttp"), "milliseconds": rounds}
    rows = [(name, f"{statistics.median(found):.2f}", f"{min(found):.2f}") for name, found in rounds.items()]
    print(show_machine(figures["machine"]))
    print(show_table(("way", "median ms", "best ms"), rows))
    print(write_results("hop", figures))


async def _measure(predictor: Server, settings: HopSettings) -> dict[str, list[float]]:
    """Milliseconds of one call: the median of each round."""
    over_rest = open_channel(predictor.http, REST, MODEL_NAME)
    over_grpc = open_channel(predictor.grpc, GRPC, MODEL_NAME)
    async with aiohttp.ClientSession() as session:
        ways = _ways(over_rest, over_grpc, session, f"http://{predictor.http}/v2/models/{MODEL_NAME}/infer")
        rounds: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(settings.rounds + 1):
            for name, (way, pictures) in ways.items():
                pixels = np.random.default_rng(number).integers(0, 256, (pictures, 224, 224, 3), np.uint8)
                taken = [await _time(way, pixels) for _ in range(settings.calls if "JSON" not in name else 3)]
                if number:  # the first round warms up
                    rounds[name].append(1000 * statistics.median(taken))
    await over_rest.close()
    await over_grpc.close()
    return rounds


async def _time(way: Way, pixels: Pixels) -> float:
    begin = time.perf_counter()
    await way(pixels)
    return time.perf_counter() - begin


def _ways(
    over_rest: PredictorChannel, over_grpc: PredictorChannel, session: aiohttp.ClientSession, url: str
) -> dict[str, tuple[Way, int]]:
    def by_rest(pixels: Pixels) -> Awaitable[object]:
        return over_rest.predict(pixels, Call(Deadline.after(10)))

    def by_grpc(pixels: Pixels) -> Awaitable[object]:
        return over_grpc.predict(pixels, Call(Deadline.after(10)))

    async def by_json(pixels: Pixels) -> object:
        entry = {"name": "pixels", "datatype": "UINT8", "shape": pixels.shape, "data": pixels.reshape(-1)}
        async with session.post(
            url, data=orjson.dumps({"inputs": [entry]}, option=orjson.OPT_SERIALIZE_NUMPY)
        ) as answer:
            return orjson.loads(await answer.read())

    return {
        "REST, binary (ours)": (by_rest, 1),
        "REST, binary, 8 pictures": (by_rest, 8),
        "gRPC, raw": (by_grpc, 1),
        "gRPC, raw, 8 pictures": (by_grpc, 8),
        "REST, JSON by orjson": (by_json, 1),
    }


if __name__ == "__main__":
    run_program(main)
