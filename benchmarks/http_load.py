"""`python -m benchmarks.http_load HOST:PORT CONCURRENCY SECONDS`: asks an HTTP server until all have answered.

Environment: PICTURES (URLs, with spaces); ROUTE and BODY, with URL in it, or the pictures themselves are fetched.
"""

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import uvloop

from benchmarks.open_loop import LOST, OpenLoop, Outcome, encode_get, encode_post


def encode_questions(address: str, route: str, body: str, pictures: Sequence[str]) -> Sequence[bytes]:
    """A request about each picture, whose URL takes the place of URL in `body`."""
    bodies = [body.replace("URL", picture).encode() for picture in pictures]
    return [encode_post(address, route, "application/json", body) for body in bodies]


def summarize(outcome: Outcome) -> dict[str, Any]:
    """As grpc_load and wrk say it; milliseconds are those of good answers."""
    good, lost = outcome.taken.get(200, []), len(outcome.taken.get(LOST, ()))
    answered = sum(map(len, outcome.taken.values())) - lost
    p50, p99 = map(float, np.percentile(good or [0.0], [50, 99]))
    found = {"requests": answered, "seconds": outcome.seconds, "p50": p50, "p99": p99}
    return {**found, "errors": lost, "not_2xx": answered - len(good)}


def main(address: str, concurrency: str, seconds: str) -> None:
    """Ask, and print what came of it."""
    client, before = OpenLoop(address, _encode(address, os.environ)), time.process_time()
    found = summarize(uvloop.run(client.find_capacity(int(concurrency), float(seconds))))
    print("RESULT", json.dumps({**found, "core_seconds": time.process_time() - before}))


def _encode(address: str, environ: Mapping[str, str]) -> Sequence[bytes]:
    pictures = environ["PICTURES"].split()
    if "BODY" in environ:
        return encode_questions(address, environ["ROUTE"], environ["BODY"], pictures)
    return [encode_get(address, urlsplit(picture).path) for picture in pictures]


if __name__ == "__main__":
    main(*sys.argv[1:])
