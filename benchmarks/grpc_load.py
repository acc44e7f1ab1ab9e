"""`python -m benchmarks.grpc_load HOST:PORT CONCURRENCY SECONDS`: asks a gRPC server until all have answered.

Environment: PICTURES (URLs, with spaces).
"""

import asyncio
import itertools
import json
import os
import sys
import time
from collections.abc import Iterable
from typing import Any

import grpc
import numpy as np
import uvloop

from benchmarks.agreement import Answer
from benchmarks.workload import K, N
from contract import MODEL_NAME
from serving.grpc_codec import encode_request
from serving.stubs import load_messages, method_path
from serving.v2 import InferRequest, Tensor, split_bytes


def encode_question(picture: str) -> bytes:
    """A ModelInferRequest about one picture by its URL."""
    message = encode_request(MODEL_NAME, InferRequest({"url": Tensor.of_strings("url", [picture], [1])}))
    message.parameters["k"].int64_param, message.parameters["n"].int64_param = K, N
    encoded: bytes = message.SerializeToString()
    return encoded


def read_answer(encoded: bytes) -> Answer:
    """The route's JSON, from the tensors."""
    message = load_messages().ModelInferResponse.FromString(encoded)
    raw = dict(zip([output.name for output in message.outputs], message.raw_output_contents, strict=True))
    classes, paths = ([text.decode() for text in split_bytes(name, raw[name])] for name in ("classes", "match_path"))
    probabilities = np.frombuffer(raw["probabilities"], np.float32).tolist()
    return {
        "probabilities": dict(zip(classes, probabilities, strict=True)),
        "top_matches": [{"path": path} for path in paths],
    }


def ask(address: str, picture: str, timeout: float) -> Answer:
    """One question, without keeping the connection; raises OSError."""
    try:
        with grpc.insecure_channel(address) as channel:
            return read_answer(
                channel.unary_unary(method_path("ModelInfer"))(encode_question(picture), timeout=timeout)
            )
    except grpc.RpcError as error:
        raise OSError(str(error)) from None


async def measure(address: str, pictures: Iterable[str], concurrency: int, seconds: float) -> dict[str, Any]:
    """Keep `concurrency` calls in the air."""
    questions = itertools.cycle([encode_question(picture) for picture in pictures])
    taken: list[float] = []
    failed = 0
    async with grpc.aio.insecure_channel(address) as channel:
        call = channel.unary_unary(method_path("ModelInfer"))
        begin = time.perf_counter()

        async def keep_asking() -> None:
            nonlocal failed
            while (now := time.perf_counter()) < begin + seconds:
                try:
                    await call(next(questions), timeout=60)
                    taken.append(time.perf_counter() - now)
                except grpc.aio.AioRpcError:
                    failed += 1

        await asyncio.gather(*(keep_asking() for _ in range(concurrency)))
        elapsed = time.perf_counter() - begin
    percentiles = 1000 * np.percentile(taken or [0.0], [50, 99])
    times = {"seconds": elapsed, "p50": float(percentiles[0]), "p99": float(percentiles[1])}
    return {"requests": len(taken), **times, "errors": failed, "not_2xx": 0}


def main(address: str, concurrency: str, seconds: str) -> None:
    """Ask, and print what came of it."""
    pictures, before = os.environ["PICTURES"].split(), time.process_time()
    found = uvloop.run(measure(address, pictures, int(concurrency), float(seconds)))
    print("RESULT", json.dumps({**found, "core_seconds": time.process_time() - before}))


if __name__ == "__main__":
    main(*sys.argv[1:])
