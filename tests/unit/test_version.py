"""One version, wherever it has to be written."""

import tomllib
from pathlib import Path

import yaml

from serving.openapi import VERSION

ROOT = Path(__file__).parents[2]


def test_package_chart_and_changelog_have_the_version_that_the_server_names() -> None:
    chart = yaml.safe_load((ROOT / "helm/Chart.yaml").read_text())
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == VERSION
    assert (chart["version"], str(chart["appVersion"])) == (VERSION, VERSION)
    assert f"## [{VERSION}]" in (ROOT / "CHANGELOG.md").read_text()
