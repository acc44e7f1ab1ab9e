"""A reference to a head in MLflow -> its files in a local directory."""

import math
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from predictor.head import ARGUMENTS_FILE, LABELS_FILE, MARK_FILE, WEIGHTS_FILE
from predictor.tracking import file_store, open_tracking, show_uri, sqlite_file
from serving.errors import ArtefactError

if TYPE_CHECKING:
    from mlflow import MlflowClient

REQUIRED_FILES = (ARGUMENTS_FILE, WEIGHTS_FILE, LABELS_FILE)
REFERENCE = re.compile(
    r"models:/(?P<name>[^/@]+)(?:/(?P<version>\d+)|@(?P<alias>[^/@]+))"
    r"|experiment:(?P<experiment>.+)|(?P<run>[0-9a-zA-Z][\w-]*)"
)


@dataclass(frozen=True)
class FoundHead:
    """Where a head's files lie, and the reference that will always mean the same ones."""

    pinned: str  # models:/NAME/VERSION or a run id
    artifact_uri: str


def fetch_head(tracking_uri: str, reference: str, destination: Path) -> Path:
    """Copy the head that `reference` means to `destination`, whole or not at all, and return that.

    A reference is models:/NAME@ALIAS, models:/NAME/VERSION, a run id, or experiment:NAME (its best finished run by
    val_loss). Raises ArtefactError for what is malformed, missing or out of reach.
    """
    with open_tracking(tracking_uri) as client:
        found = _find(client, tracking_uri, reference)
        destination.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=destination.parent) as workspace:
            arriving = Path(workspace) / "head"
            _download(found, tracking_uri, arriving)
            if destination.exists():
                destination.rename(Path(workspace) / "replaced")
            arriving.rename(destination)
    return destination


def pin_reference(tracking_uri: str, reference: str) -> str:
    """What `reference` means now, as a version or a run id that will mean the same later."""
    with open_tracking(tracking_uri) as client:
        return _find(client, tracking_uri, reference).pinned


def _find(client: "MlflowClient", tracking_uri: str, reference: str) -> FoundHead:
    match = REFERENCE.fullmatch(reference)
    if not match:
        raise ArtefactError(
            f"{reference!r} is not a reference to a head; use models:/NAME@ALIAS, models:/NAME/VERSION, "
            "experiment:NAME or a run id"
        )
    if match["name"]:
        return _find_version(client, tracking_uri, match["name"], match["version"], match["alias"])
    run = _find_best_run(client, match["experiment"]) if match["experiment"] else client.get_run(match["run"])
    if run.info.lifecycle_stage != "active":
        raise ArtefactError(f"the MLflow run {run.info.run_id} has been deleted; name another one")
    place = _locate(run.info.artifact_uri, run.info.run_id, client, tracking_uri)
    return FoundHead(run.info.run_id, place)


def _find_version(
    client: "MlflowClient", tracking_uri: str, name: str, number: str | None, alias: str | None
) -> FoundHead:
    version = client.get_model_version_by_alias(name, alias) if alias else client.get_model_version(name, number)
    source = client.get_model_version_download_uri(name, version.version)
    return FoundHead(f"models:/{name}/{version.version}", _locate(source, version.run_id, client, tracking_uri))


def _find_best_run(client: "MlflowClient", name: str) -> Any:
    experiment = client.get_experiment_by_name(name)
    if experiment is None or experiment.lifecycle_stage != "active":
        raise ArtefactError(f"MLflow has no experiment {name!r}; train a head or name another one")
    runs = client.search_runs(
        [experiment.experiment_id],
        filter_string="attributes.status = 'FINISHED'",
        order_by=["metrics.val_loss ASC", "attributes.start_time DESC"],
        max_results=1,
    )  # runs without the metric, and those where it is NaN, come last
    if not runs or not math.isfinite(runs[0].data.metrics.get("val_loss", math.nan)):
        raise ArtefactError(f"the MLflow experiment {name!r} has no finished run with a val_loss")
    return runs[0]


def _locate(artifact_uri: str, run_id: str | None, client: "MlflowClient", tracking_uri: str) -> str:
    """Where the files are now: the runs of a local store that was copied elsewhere still name the old place."""
    parts = urlsplit(artifact_uri)
    if not run_id or parts.scheme not in ("", "file") or Path(unquote(parts.path)).is_dir():
        return artifact_uri
    folder, database = file_store(tracking_uri), sqlite_file(tracking_uri)
    if folder:
        folder /= client.get_run(run_id).info.experiment_id
    elif database:
        folder = database.parent / "mlartifacts"  # where predictor.train puts them
    moved = folder / run_id / "artifacts" if folder else Path()
    return str(moved.absolute()) if folder and moved.is_dir() else artifact_uri


def _download(found: FoundHead, tracking_uri: str, destination: Path) -> None:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    repository = get_artifact_repository(found.artifact_uri, tracking_uri)
    there = {Path(file.path).name for file in repository.list_artifacts()}
    missing = [name for name in REQUIRED_FILES if name not in there]
    if missing:
        raise ArtefactError(
            f"{found.pinned} in MLflow has no {', '.join(missing)} at {show_uri(found.artifact_uri)}: "
            "it is not a trained head, or its files have been moved"
        )
    destination.mkdir()
    for name in (*REQUIRED_FILES, *({MARK_FILE} & there)):
        repository.download_artifacts(name, str(destination))
