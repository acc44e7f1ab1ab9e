"""Sends pixels straight to predictors, as a transformer does, and says how many each of them answered."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from contract import MODEL_NAME
from serving.call import Call
from serving.deadline import Deadline
from serving.errors import ServiceError
from transformer.channel import open_channel
from transformer.target import REST

AT_ONCE = 12  # for each predictor: a batch that is computed, and some that wait
SIZE = 224
COUNTER = "doggos_requests_total{"
REQUEST_SECONDS = 30.0
CountAll = Callable[[], Mapping[str, float]]  # requests answered so far, by predictor


async def feed(addresses: Sequence[str], seconds: float, count: CountAll) -> dict[str, Any]:
    """Keep every predictor busy: answers per second of all, and each one's share in percent."""
    channel = open_channel(",".join(addresses), REST, MODEL_NAME)
    pixels = np.random.default_rng(0).integers(0, 256, (1, SIZE, SIZE, 3), np.uint8)
    answered = failed = 0
    stop = False

    async def keep_asking() -> None:
        nonlocal answered, failed
        while not stop:
            try:
                await channel.predict(pixels, Call(Deadline.after(REQUEST_SECONDS)))
                answered += 1
            except ServiceError:
                failed += 1
                await asyncio.sleep(0.1)

    tasks = [asyncio.create_task(keep_asking()) for _ in range(AT_ONCE * len(addresses))]
    await asyncio.sleep(seconds / 4)  # until all queues are as long as they get
    before, answered_before, begin = count(), answered, time.perf_counter()
    await asyncio.sleep(seconds)
    after, per_second = count(), (answered - answered_before) / (time.perf_counter() - begin)
    stop = True
    await asyncio.gather(*tasks)
    await channel.close()
    counts = {name: after[name] - before.get(name, 0.0) for name in after}
    total = sum(counts.values()) or 1.0
    return {"per_second": per_second, "failed": failed, "shares": [100 * one / total for one in counts.values()]}


def points_from_even(shares: Sequence[float]) -> float:
    """How far the share that is farthest from even is from it, in percent points."""
    return max(abs(share - 100 / len(shares)) for share in shares)


def sum_requests(metrics: str) -> float:
    """How many requests a server has answered, by its metrics."""
    return sum(float(line.split()[-1]) for line in metrics.splitlines() if line.startswith(COUNTER))
