"""`python -m benchmarks.bare MODEL_DIR ENGINE PICTURES`: the limit, decode and forward in one process.

It measures what a line of its input says, ALONE, RESTED or BATCHES and seconds, and prints JSON.
"""

import itertools
import json
import statistics
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from benchmarks.limit import ALONE, BATCHES, RESTED
from contract import Pixels
from local import load_engine
from predictor.settings import PredictorSettings
from predictor.startup import limit_spinning
from serving.threads import cpu_limit
from transformer.decode import decode

BATCH = 8
REST = 0.01  # seconds: what passes between two forwards when a server answers one request after the other


class Bare:
    """One engine, and pictures that are decoded for it in turn."""

    def __init__(self, model_dir: str, engine: str, pictures: Path) -> None:
        limit_spinning()  # as the predictor does
        self._engine = load_engine(PredictorSettings(model_dir=model_dir, engine=engine, device="cpu"))
        self._files = itertools.cycle([path.read_bytes() for path in sorted(pictures.iterdir())])
        for batch in (1, BATCH):
            self._engine.predict(np.stack([self._decode() for _ in range(batch)]))

    def measure(self, what: str, seconds: float) -> Mapping[str, float]:
        """Milliseconds, core-ms and pictures per second, of what was asked for; ALONE takes 0 for one picture."""
        return {ALONE: self._one_by_one, RESTED: self._with_rests, BATCHES: self._in_batches}[what](seconds)

    def _decode(self) -> Pixels:
        return decode(next(self._files), self._engine.size, exif_orientation=False)

    def _one_by_one(self, seconds: float) -> Mapping[str, float]:
        decodes, forwards = list[float](), list[float]()
        begin_cpu, end = time.process_time(), time.perf_counter() + seconds
        while not forwards or time.perf_counter() < end:
            begin = time.perf_counter()
            pixels = self._decode()
            decoded = time.perf_counter()
            self._engine.predict(pixels[None])
            decodes.append(decoded - begin)
            forwards.append(time.perf_counter() - decoded)
        cpu = (time.process_time() - begin_cpu) / len(forwards)
        decode_ms, forward_ms = (1000 * statistics.median(times) for times in (decodes, forwards))
        return {"decode_ms": decode_ms, "forward_ms": forward_ms, "core_ms_at_1": 1000 * cpu}

    def _with_rests(self, seconds: float) -> Mapping[str, float]:
        """What a forward takes when the processor had nothing to do before it."""
        pixels, forwards, end = self._decode()[None], [], time.perf_counter() + seconds
        while time.perf_counter() < end:
            time.sleep(REST)
            begin = time.perf_counter()
            self._engine.predict(pixels)
            forwards.append(time.perf_counter() - begin)
        return {"rested_forward_ms": 1000 * statistics.median(forwards)}

    def _in_batches(self, seconds: float) -> Mapping[str, float]:
        """Full batches, while the next one is decoded: as many are decoded as are computed."""
        with ThreadPoolExecutor(cpu_limit()) as pool:
            waiting, number = [self._decode() for _ in range(BATCH)], 0
            begin_cpu, begin = time.process_time(), time.perf_counter()
            while time.perf_counter() < begin + seconds:
                pixels = np.stack(waiting)
                following = [pool.submit(self._decode) for _ in range(BATCH)]
                self._engine.predict(pixels)
                waiting = [future.result() for future in following]
                number += BATCH
            cpu, wall = time.process_time() - begin_cpu, time.perf_counter() - begin
        return {"pictures_per_second": number / wall, "core_ms_at_8": 1000 * cpu / number}


if __name__ == "__main__":
    bare = Bare(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
    print(flush=True)  # it is warm
    for line in sys.stdin:
        asked, for_seconds = line.split()
        print(json.dumps(bare.measure(asked, float(for_seconds))), flush=True)
