"""The alert rules, run by Prometheus' own promtool, and the runbook that they link to."""

import re
import subprocess
from pathlib import Path
from typing import Any

import yaml

from tests.manifests.rendering import find_program

ROOT = Path(__file__).parents[2]
RULES = ROOT / "helm" / "alerts" / "doggos.yaml"
TESTS = ROOT / "tests" / "alerts" / "doggos_test.yaml"


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"] if "alert" in rule]


def test_promtool_passes_the_unit_tests() -> None:
    command = [find_program("promtool"), "test", "rules", TESTS]  # `make promtool` builds it with Go
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tested_firing_and_silent() -> None:
    told: dict[str, set[bool]] = {}
    for test in yaml.safe_load(TESTS.read_text())["tests"]:
        for check in test["alert_rule_test"]:
            told.setdefault(check["alertname"], set()).add(bool(check["exp_alerts"]))
    assert told == {alert["alert"]: {True, False} for alert in alerts()}


def test_every_alert_links_to_its_paragraph_of_the_runbook() -> None:
    page = (ROOT / "docs" / "runbook.md").read_text()
    paragraphs = dict(re.findall(r"^## (\w+)\n\n(.+?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL))
    for alert in alerts():
        assert alert["annotations"]["runbook_url"] == f"docs/runbook.md#{alert['alert'].lower()}"
        assert len(paragraphs[alert["alert"]].split()) > 50, alert["alert"]
    assert set(paragraphs) == {alert["alert"] for alert in alerts()}
