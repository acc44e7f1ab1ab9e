"""The dashboard's panels and queries, as Grafana would send them to Prometheus."""

import json
import re
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DASHBOARD = Path(__file__).parents[1] / "helm" / "dashboards" / "doggos.json"
ALL = ".*"  # what Grafana puts in for a variable at "All"


@dataclass(frozen=True)
class Query:
    """One expression with the form of its legend."""

    expr: str
    legend: str

    def fill(self, window: str) -> str:
        """The expression with its variables filled in; `window` is what rates look back on."""
        values = {"$__rate_interval": window, "$namespace": ALL, "$service": ALL}
        return re.sub(r"\$\w+", lambda match: values[match[0]], self.expr)

    def name(self, labels: Mapping[str, str]) -> str:
        """What the legend says of a series with these labels."""
        return re.sub(r"\{\{(\w+)\}\}", lambda match: labels.get(match[1], ""), self.legend).strip()


@dataclass(frozen=True)
class Panel:
    """A rectangle of the dashboard, in Grafana's grid of 24 columns."""

    title: str
    kind: str  # row, timeseries or table
    unit: str
    description: str
    x: int
    y: int
    width: int
    height: int
    queries: tuple[Query, ...]


def read_panels(path: Path = DASHBOARD) -> list[Panel]:
    """All panels from top to bottom, rows among them."""
    return [_panel(entry) for entry in json.loads(path.read_text())["panels"]]


def _panel(entry: Mapping[str, Any]) -> Panel:
    place = entry["gridPos"]
    queries = tuple(Query(target["expr"], target["legendFormat"]) for target in entry.get("targets", ()))
    unit = entry.get("fieldConfig", {}).get("defaults", {}).get("unit", "")
    return Panel(
        entry["title"], entry["type"], unit, entry.get("description", ""),
        place["x"], place["y"], place["w"], place["h"], queries,
    )  # fmt: skip


def read_variables(path: Path = DASHBOARD) -> Iterator[tuple[str, str]]:
    """Metric selector and label of each variable that Prometheus is asked for."""
    for variable in json.loads(path.read_text())["templating"]["list"]:
        if match := re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]):
            yield Query(match[1], "").fill(""), match[2]


def ask_prometheus(url: str, route: str, **parameters: Any) -> Any:
    """The data of an answer of Prometheus' HTTP API, such as query or query_range."""
    query = urllib.parse.urlencode({name: str(value) for name, value in parameters.items()})
    with urllib.request.urlopen(f"{url}/api/v1/{route}?{query}", timeout=30) as answer:  # noqa: S310
        return json.load(answer)["data"]
