"""A real Prometheus on loopback that scrapes servers of a test."""

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import yaml

from launch import LOOPBACK
from tests.callers import wait_until
from tests.programs import free_port


@dataclass(frozen=True)
class Target:
    """What is scraped, and the labels that Kubernetes would give to it."""

    address: str  # HOST:PORT
    labels: Mapping[str, str]


@contextmanager
def run_prometheus(binary: str, targets: Sequence[Target], folder: Path) -> Iterator[str]:
    """Scrape every second; yields the URL once every target has been scraped."""
    jobs = [{"targets": [target.address], "labels": dict(target.labels)} for target in targets]
    scrape = {"job_name": "doggos", "static_configs": jobs, "fallback_scrape_protocol": "PrometheusText0.0.4"}
    config = {"global": {"scrape_interval": "1s"}, "scrape_configs": [scrape]}
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    address = f"{LOOPBACK}:{free_port()}"
    files = [f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen([binary, *files, f"--web.listen-address={address}"], stdout=log, stderr=log)
    try:
        wait_until(lambda: _scraped(f"http://{address}") == len(targets), "a scrape of every target")
        yield f"http://{address}"
    finally:
        process.terminate()
        process.wait(30)


def _scraped(url: str) -> int:
    try:
        answer = httpx.get(f"{url}/api/v1/query", params={"query": "sum(up)"}, timeout=5).json()
    except (httpx.TransportError, ValueError):
        return 0
    result = answer.get("data", {}).get("result")
    return int(result[0]["value"][1]) if result else 0
