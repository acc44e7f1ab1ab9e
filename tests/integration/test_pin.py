"""The head that a deployment looks up once, as values of the chart."""

import json
from pathlib import Path

import pytest

from deploy.pin import write_pin
from serving.errors import ArtefactError
from workshop import EXPERIMENT, REFERENCE, Workshop


def test_an_alias_becomes_a_version_and_a_best_run_its_id(workshop: Workshop, tmp_path: Path) -> None:
    pin = tmp_path / "pin.yaml"
    write_pin(workshop.mlflow_uri, REFERENCE, pin)
    assert json.loads(pin.read_text()) == {"artefacts": {"mlflow": {"model": "models:/doggos/1", "run": ""}}}
    write_pin(workshop.mlflow_uri, f"experiment:{EXPERIMENT}", pin)
    run = json.loads(pin.read_text())["artefacts"]["mlflow"]
    assert len(run["run"]) == 32 and run["model"] == ""


def test_what_is_not_there_pins_nothing(workshop: Workshop, tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match="nobody"):
        write_pin(workshop.mlflow_uri, "models:/nobody@champion", tmp_path / "pin.yaml")
    assert not (tmp_path / "pin.yaml").exists()
