"""Every query of the Grafana dashboard, asked of a real Prometheus that scraped real servers with real traffic."""

import math
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from contract import ClipMark
from docs.dashboard import DASHBOARD, Query, ask_prometheus, read_panels, read_variables
from docs.draw_dashboard import draw
from embeddings import read_embeddings
from launch import Server, picture_server
from tests.callers import ask_grpc, read_metrics, wait_until
from tests.conftest import Service
from tests.manifests.rendering import find_program
from tests.programs import free_port
from tests.prometheus import Target, run_prometheus

TRANSFORMER = {"namespace": "shop", "pod": "doggos-transformer-5d8f-abcde"}
PREDICTOR = {"namespace": "shop", "pod": "doggos-predictor-7c9d-fghij"}
# What kube-state-metrics and, for GPUs, dcgm-exporter would show besides; no server of ours has these.
ELSEWHERE = """\
kube_horizontalpodautoscaler_status_current_replicas{horizontalpodautoscaler="keda-hpa-doggos-predictor"} 1
kube_horizontalpodautoscaler_spec_max_replicas{horizontalpodautoscaler="keda-hpa-doggos-predictor"} 3
DCGM_FI_DEV_GPU_UTIL{gpu="0",pod="doggos-predictor-7c9d-fghij"} 63
DCGM_FI_DEV_FB_USED{gpu="0",pod="doggos-predictor-7c9d-fghij"} 9000
DCGM_FI_DEV_FB_FREE{gpu="0",pod="doggos-predictor-7c9d-fghij"} 72000
"""
NEEDS = {"Replicas of the autoscaler": "kube_", "GPU": "DCGM_"}  # panel to the metrics that it needs from elsewhere
QUERIES = [
    pytest.param(panel.title, query, id=f"{panel.title}: {query.legend}")
    for panel in read_panels()
    for query in panel.queries
]
# 0 while nobody waits and nothing is wrong; everything else must show the traffic.
AT_REST = {
    *("5xx", "transformers, now", "predictors, now", "downloads", "decode queue", "engine queue"),
    *("for a decode", "for the engine", "refused a second by transformers"),
    *("refused a second by predictors", "answers of another CLIP or contract"),
}


@dataclass(frozen=True)
class Watched:
    """A Prometheus, and the time in which it saw the traffic."""

    url: str
    begin: float
    end: float

    @property
    def window(self) -> str:
        return f"{math.ceil(self.end - self.begin) + 1}s"

    def ask(self, query: Query) -> list[Any]:
        """The series at the end of the traffic."""
        answer = ask_prometheus(self.url, "query", query=query.fill(self.window), time=self.end)
        return list(answer["result"])


@pytest.fixture(scope="session")
def binary() -> str:
    """Looked for first, as the service takes its time."""
    return find_program("prometheus")


@pytest.fixture(scope="module")
def prometheus(binary: str, service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """Has scraped both servers before, during and after traffic with good and bad requests over both protocols."""
    folder = tmp_path_factory.mktemp("prometheus")
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere" / "metrics").write_text(ELSEWHERE)
    with picture_server(folder / "elsewhere") as elsewhere:
        targets = [
            Target(service.transformer.metrics, TRANSFORMER),
            Target(service.predictor.metrics, PREDICTOR),
            Target(elsewhere.removeprefix("http://"), {"namespace": "shop"}),
        ]
        ask(service)  # counters with labels begin with the first request
        begin = time.time()
        with run_prometheus(binary, targets, folder) as url:
            ask(service)
            made = requests(service.transformer) + requests(service.predictor)
            wait_until(lambda: scraped(url) >= made, "the traffic in Prometheus")
            yield Watched(url, begin, time.time())


def ask(service: Service) -> None:
    """Good and bad requests over both protocols, several at a time."""
    good = service.picture_url(service.held_out[0])

    def post(url: str) -> int:
        return httpx.post(f"{service.url}/predict/", json={"url": url, "k": 2, "n": 2}, timeout=60).status_code

    with ThreadPoolExecutor(8) as callers:
        assert list(callers.map(post, [good] * 8)) == [200] * 8
        lost = [f"{service.pictures}/lost.jpg", f"http://127.0.0.1:{free_port()}/dog.jpg"]
        assert list(callers.map(post, lost)) == [424, 424]
    assert ask_grpc(service.transformer, service.held_out[0].read_bytes()).code == "OK"


def requests(server: Server) -> float:
    return sum(value for name, value in read_metrics(server).items() if name.startswith("doggos_requests_total"))


def scraped(url: str) -> float:
    result = ask_prometheus(url, "query", query="sum(doggos_requests_total)")["result"]
    return float(result[0]["value"][1]) if result else 0.0


@pytest.mark.parametrize(("panel", "query"), QUERIES)
def test_every_query_returns_what_happened(prometheus: Watched, panel: str, query: Query) -> None:
    assert any(metric in query.expr for metric in NEEDS.values()) == (panel in NEEDS), "only these need others' metrics"
    series = prometheus.ask(query)
    values = [float(entry["value"][1]) for entry in series]
    assert values, "no data"
    assert not any(map(math.isnan, values))
    assert any(values) or query.legend in AT_REST, "all of it is 0"
    assert all("{{" not in query.name(entry["metric"]) and query.name(entry["metric"]) for entry in series)


@pytest.mark.parametrize("legend", ["{{reason}}", "{{stage}}", "{{protocol}} {{code}}", "{{clip}} {{name}}"])
def test_series_are_named_for_what_they_are(prometheus: Watched, service: Service, legend: str) -> None:
    wanted = {
        "{{reason}}": {"status", "connect"},
        "{{stage}}": {"fetch", "decode", "predict", "search", "queue", "forward"},
        "{{protocol}} {{code}}": {"http 200", "http 424", "grpc OK"},
        "{{clip}} {{name}}": {f"{mark(service).fingerprint} {mark(service).name}"},
    }
    (query,) = [query for panel in read_panels() for query in panel.queries if query.legend == legend]
    series = prometheus.ask(query)
    assert wanted[legend] <= {query.name(entry["metric"]) for entry in series}


def mark(service: Service) -> ClipMark:
    found = read_embeddings(str(service.workshop.index)).mark
    assert found
    return found


def test_the_variables_find_namespace_and_service(prometheus: Watched) -> None:
    found = {
        label: ask_prometheus(prometheus.url, f"label/{label}/values", **{"match[]": selector})
        for selector, label in read_variables()
    }
    assert found == {"namespace": ["shop"], "pod": [PREDICTOR["pod"], TRANSFORMER["pod"]]}


def test_the_alert_rules_name_metrics_that_are_there(prometheus: Watched) -> None:
    rules = (DASHBOARD.parents[1] / "alerts" / "doggos.yaml").read_text()
    named = set(re.findall(r"\b(?:doggos|kube)_[a-z_]+(?=\W)", rules))
    assert len(named) > 8
    there = set(ask_prometheus(prometheus.url, "label/__name__/values"))
    assert named <= there
    (slow,) = ask_prometheus(prometheus.url, "query", query='count(doggos_own_seconds_bucket{le="1.0"})')["result"]
    assert slow["value"][1] == "2", "the objective's bucket, of both servers"


def test_the_picture_in_the_docs_can_be_drawn(prometheus: Watched, tmp_path: Path) -> None:
    draw(prometheus.url, 1, tmp_path / "dashboard.png", prometheus.window)
    with Image.open(tmp_path / "dashboard.png") as picture:
        assert picture.width > 1000
