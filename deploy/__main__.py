"""`python -m deploy RELEASE`: see deploy/release.py."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from deploy.release import deploy
from deploy.settings import DeploySettings
from serving.program import run_program
from serving.settings import load_settings


def main(argv: Sequence[str], environ: Mapping[str, str]) -> None:
    """Read the settings, look the head up, deploy."""
    settings = load_settings(DeploySettings, "python -m deploy", "DEPLOY_", argv, environ)
    with tempfile.TemporaryDirectory() as folder:
        pin = Path(settings.pin_file or Path(folder, "pin.yaml"))
        if settings.mlflow_head:
            from deploy.pin import write_pin  # MLflow and torch take their time, and few deployments need them

            write_pin(settings.mlflow_uri, settings.mlflow_head, pin)
        deploy(settings, [str(pin)] if settings.mlflow_head else [])


if __name__ == "__main__":
    run_program(main)
