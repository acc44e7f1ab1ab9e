"""`python -m benchmarks.bare MODEL_DIR ENGINE PICTURES SECONDS`: the limit, decode and forward in one process."""

import json
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from contract import Pixels, Prediction
from local import load_engine
from predictor.settings import PredictorSettings
from predictor.startup import limit_spinning
from serving.threads import cpu_limit
from transformer.decode import decode

BATCH = 8
REST = 0.01  # seconds: what passes between two forwards when a server answers one request after the other


def measure(model_dir: str, engine_name: str, pictures: Path, seconds: float) -> dict[str, Any]:
    """One picture after the other, the same with rests, and full batches while the next one is decoded."""
    limit_spinning()  # as the predictor does
    engine = load_engine(PredictorSettings(model_dir=model_dir, engine=engine_name, device="cpu"))
    files = [path.read_bytes() for path in sorted(pictures.iterdir())]

    def read(number: int) -> Pixels:
        return decode(files[number % len(files)], engine.size, exif_orientation=False)

    for batch in (1, BATCH):
        engine.predict(np.stack([read(number) for number in range(batch)]))
    return {
        **_one_by_one(read, engine.predict, seconds / 2),
        "rested_forward_ms": _rested(read(0)[None], engine.predict, seconds / 4),
        **_batches(read, engine.predict, seconds / 2),
    }


def _one_by_one(
    read: Callable[[int], Pixels], predict: Callable[[Pixels], Prediction], seconds: float
) -> dict[str, Any]:
    decodes, forwards, number = [], [], 0
    begin_cpu, end = time.process_time(), time.perf_counter() + seconds
    while time.perf_counter() < end:
        begin = time.perf_counter()
        pixels = read(number)
        decoded = time.perf_counter()
        predict(pixels[None])
        decodes.append(decoded - begin)
        forwards.append(time.perf_counter() - decoded)
        number += 1
    cpu = (time.process_time() - begin_cpu) / number
    decode_ms, forward_ms = (1000 * statistics.median(times) for times in (decodes, forwards))
    return {"decode_ms": decode_ms, "forward_ms": forward_ms, "core_ms_at_1": 1000 * cpu}


def _rested(pixels: Pixels, predict: Callable[[Pixels], Prediction], seconds: float) -> float:
    """What a forward takes, in milliseconds, when the processor had nothing to do before it."""
    forwards, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end:
        time.sleep(REST)
        begin = time.perf_counter()
        predict(pixels)
        forwards.append(time.perf_counter() - begin)
    return 1000 * statistics.median(forwards)


def _batches(read: Callable[[int], Pixels], predict: Callable[[Pixels], Prediction], seconds: float) -> dict[str, Any]:
    with ThreadPoolExecutor(cpu_limit()) as pool:
        begin_cpu, begin, number = time.process_time(), time.perf_counter(), 0
        waiting = list(pool.map(read, range(BATCH)))
        while time.perf_counter() < begin + seconds:
            pixels = np.stack(waiting)
            following = [pool.submit(read, number + BATCH + i) for i in range(BATCH)]
            predict(pixels)
            waiting = [future.result() for future in following]
            number += BATCH
        cpu, wall = time.process_time() - begin_cpu, time.perf_counter() - begin
    return {"pictures_per_second": number / wall, "core_ms_at_8": 1000 * cpu / number}


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], sys.argv[2], Path(sys.argv[3]), float(sys.argv[4]))))
