"""A head as people name it -> the chart's values that will mean the same one at any later hour."""

import json
from pathlib import Path

from deploy.tools import say
from predictor.registry import pin_reference


def write_pin(mlflow_uri: str, head: str, file: Path) -> None:
    """Look `head` up in MLflow once and write the values that name it; raises ArtefactError."""
    pinned = pin_reference(mlflow_uri, head)
    name = "model" if pinned.startswith("models:/") else "run"
    mlflow = {"run": "", "model": "", name: pinned}
    file.write_text(json.dumps({"artefacts": {"mlflow": mlflow}}, indent=2) + "\n")  # JSON is YAML too
    say(f"{head} is {pinned} now")
