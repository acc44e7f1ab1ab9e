"""Asks a system as fast as it answers, a fixed number of requests at a time, from a process of its own."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.metering import children_cpu_seconds

Load = dict[str, Any]  # requests, seconds, p50, p99, errors, not_2xx, client_core_ms
RESULT = re.compile("RESULT (.*)")


class Unavailable(Exception):
    """A program or an environment is missing, or a system did not start."""


def load_http(address: str, route: str, body: str, urls: Sequence[str], concurrency: int, seconds: float) -> Load:
    """POST `body`, with each of `urls` where it says URL, until all that were asked have answered."""
    command = [sys.executable, "-m", "benchmarks.http_load", address, str(concurrency), str(seconds)]
    return _run(command, {"PICTURES": " ".join(urls), "BODY": body, "ROUTE": route})


def load_by_wrk(address: str, route: str, body: str, urls: Sequence[str], concurrency: int, seconds: float) -> Load:
    """The same with wrk in one thread, whose last requests cost and do not count: to see what our client adds."""
    command = [_find_wrk(), "-t1", f"-c{concurrency}", "--timeout", "300s", "--latency", "-s", "benchmarks/load.lua"]
    command += [f"-d{max(1, round(seconds))}s", f"http://{address}"]
    return _run(command, {"PICTURES": " ".join(urls), "BODY": body, "ROUTE": route})


def load_grpc(address: str, urls: Sequence[str], concurrency: int, seconds: float) -> Load:
    """Send ModelInfer."""
    command = [sys.executable, "-m", "benchmarks.grpc_load", address, str(concurrency), str(seconds)]
    return _run(command, {"PICTURES": " ".join(urls)})


def load_pictures(urls: Sequence[str], concurrency: int, seconds: float) -> Load:
    """GET pictures: what client and picture host can do when nothing is between them."""
    address = urlsplit(urls[0]).netloc
    command = [sys.executable, "-m", "benchmarks.http_load", address, str(concurrency), str(seconds)]
    return _run(command, {"PICTURES": " ".join(urls)})


def _run(command: Sequence[str], environ: Mapping[str, str]) -> Load:
    before = children_cpu_seconds()
    output = subprocess.run(command, env={**os.environ, **environ}, capture_output=True, text=True, check=True)
    used = children_cpu_seconds() - before
    found = RESULT.search(output.stdout)
    assert found, output.stdout
    load: Load = json.loads(found[1])
    used = load.pop("core_seconds", used)  # ours leave out the start of their interpreter, when nothing is asked yet
    return {**load, "client_core_ms": 1000 * used / max(1, load["requests"])}


def _find_wrk() -> str:
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        if (path := Path(folder, "wrk")).exists():
            return str(path)
    raise Unavailable("wrk is not installed (Debian: apt-get install wrk)")
