"""The alert rules and the dashboard as the chart hands them to a monitoring stack."""

import json
import re
import subprocess
from pathlib import Path

import yaml

from docs.make_manifests import CHART
from tests.manifests.rendering import chart, find_program, one

ON = ("prometheusRule=true", "dashboard=true", "podMonitor=true", "labels.release=stack")
VALUES = ",".join(f"monitoring.{value}" for value in ON)
RUNBOOK = "https://git.example.com/doggos/docs/runbook.md"


def test_the_rules_watch_this_release_only(tmp_path: Path) -> None:
    objects = chart(f"{VALUES},monitoring.runbook={RUNBOOK}", "dogs")
    rules = one(objects, "PrometheusRule")["spec"]
    alone = yaml.safe_load((CHART / "alerts" / "doggos.yaml").read_text())
    for given, plain in zip(rules["groups"], alone["groups"], strict=True):
        for rule, written in zip(given["rules"], plain["rules"], strict=True):
            assert rule.get("alert") == written.get("alert")
            assert rule["labels"]["service"] == "dogs"
            chosen = re.findall(r"\{[^}]+\}", rule["expr"])
            assert chosen
            for labels in chosen:
                assert labels.startswith('{namespace="doggos",'), labels
                assert re.search(r'="dogs"|=~"(\(keda-hpa-\)\?)?dogs-\(predictor\|transformer\)', labels), labels
            if "alert" in rule:
                assert rule["annotations"]["runbook_url"] == f"{RUNBOOK}#{rule['alert'].lower()}"
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rules))
    checked = subprocess.run([find_program("promtool"), "check", "rules", tmp_path / "rules.yaml"], capture_output=True)
    assert checked.returncode == 0, checked.stderr


def test_the_dashboard_is_found_by_grafanas_sidecar() -> None:
    objects = chart(VALUES, "dogs")
    labels = {kind: one(objects, kind)["metadata"]["labels"] for kind in ("ConfigMap", "PrometheusRule", "PodMonitor")}
    assert labels["ConfigMap"].pop("grafana_dashboard") == "1"
    assert all(found["release"] == "stack" for found in labels.values())
    dashboard = json.loads(one(objects, "ConfigMap")["data"]["doggos.json"])
    assert dashboard == json.loads((CHART / "dashboards" / "doggos.json").read_text())


def test_neither_is_there_unless_it_is_asked_for() -> None:
    kinds = {found["kind"] for found in chart("")}
    assert not kinds & {"ConfigMap", "PrometheusRule", "PodMonitor"}
