"""`python -m benchmarks.bare_servers predictor|transformer`: two servers that do the job and nothing else.

The same libraries, decoding, engine and search as ours, without limits, deadlines, errors, batches, logs or metrics:
what two processes cost at least.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import orjson
import uvicorn

from benchmarks.workload import K, N
from launch import LOOPBACK
from local import load_engine
from predictor.exported import read_exported
from predictor.settings import PredictorSettings
from serving.threads import cpu_limit
from transformer.decode import decode
from transformer.search import load_index

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class BarePredictor:
    """Pixels to embedding and probabilities, as bytes, one picture at a time."""

    def __init__(self, model_dir: str) -> None:
        self._engine = load_engine(PredictorSettings(model_dir=model_dir, engine="openvino", device="cpu"))
        self._thread = ThreadPoolExecutor(1)

    async def __call__(self, scope: object, receive: Receive, send: Send) -> None:
        size = self._engine.size
        pixels = np.frombuffer(await _read(receive), np.uint8).reshape(1, size, size, 3)
        found = await asyncio.get_running_loop().run_in_executor(self._thread, self._engine.predict, pixels)
        assert found.probabilities is not None
        await _answer(send, found.embedding.tobytes() + found.probabilities.tobytes())


class BareTransformer:
    """A picture's URL to probabilities and matches."""

    def __init__(self, predictor: str, model_dir: str, index_dir: str) -> None:
        exported = read_exported(Path(model_dir))
        self._predictor, self._size, self._dim, self._classes = predictor, exported.size, exported.dim, exported.classes
        self._index = load_index(index_dir)
        self._threads = ThreadPoolExecutor(cpu_limit())

    @cached_property
    def _session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession()

    async def __call__(self, scope: object, receive: Receive, send: Send) -> None:
        query = orjson.loads(await _read(receive))
        async with self._session.get(query["url"]) as picture:
            data = await picture.read()
        pixels = await asyncio.get_running_loop().run_in_executor(self._threads, self._decode, data)
        async with self._session.post(self._predictor, data=pixels) as prediction:
            numbers = np.frombuffer(await prediction.read(), np.float32)
        await _answer(send, self._describe(numbers[: self._dim], numbers[self._dim :].tolist(), query))

    def _decode(self, data: bytes) -> bytes:
        return decode(data, self._size, exif_orientation=False).tobytes()

    def _describe(self, embedding: Any, probabilities: list[float], query: dict[str, Any]) -> bytes:
        shares = dict(zip(self._classes, probabilities, strict=True))
        best = sorted(shares, key=lambda name: -shares[name])[: query.get("k", K)]
        matches = [
            {"class": match.label, "path": match.path, "similarity": match.similarity}
            for match in self._index.search(embedding, best, query.get("n", N))
        ]
        return orjson.dumps({"probabilities": shares, "top_matches": matches})


async def _read(receive: Receive) -> bytes:
    parts, more = [], True
    while more:
        message = await receive()
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    return b"".join(parts)


async def _answer(send: Send, body: bytes) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


if __name__ == "__main__":
    kind, port, *rest = sys.argv[1:]
    app: Any = BarePredictor(*rest) if kind == "predictor" else BareTransformer(*rest)
    uvicorn.run(app, host=LOOPBACK, port=int(port), loop="uvloop", http="httptools", lifespan="off", log_level="error")
