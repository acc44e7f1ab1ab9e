"""MLflow opened for one purpose: no telemetry, bounded waits, the tutorial's file stores, and sentences for errors."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from serving.errors import ArtefactError

if TYPE_CHECKING:
    from mlflow import MlflowClient

QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
}
BOUNDED = {  # the caller's own values win
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
}


@contextmanager
def open_tracking(uri: str, must_exist: bool = True) -> Iterator["MlflowClient"]:
    """A client of the tracking store and its registry; raises ArtefactError for whatever MLflow raises inside.

    `must_exist` keeps MLflow from making a new, empty store of a mistyped path.
    """
    store = file_store(uri)
    if must_exist:
        _check_exists(uri, store)
    bounded = {key: os.environ.get(key, value) for key, value in BOUNDED.items()}
    allowed = {"MLFLOW_ALLOW_FILE_STORE": "true"} if store else {}
    # Parts of MLflow ask the default store, whatever client they serve, and would make one in the working directory.
    with _environment({**bounded, **QUIET, **allowed, "MLFLOW_TRACKING_URI": uri}):
        # Telemetry is decided while MLflow is imported, and it takes a second that not every start needs.
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException
        from requests import RequestException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield MlflowClient(tracking_uri=uri)
        except (MlflowException, RequestException, SQLAlchemyError, OSError) as error:
            raise ArtefactError(f"MLflow at {show_uri(uri)}: {_first_line(error)}") from error


def file_store(uri: str) -> Path | None:
    """The folder of a `file:` store or a plain path; None for servers and databases."""
    parts = urlsplit(uri)
    if parts.scheme == "file":
        return Path(unquote(parts.path))
    return None if parts.scheme or uri.startswith("databricks") else Path(uri)


def sqlite_file(uri: str) -> Path | None:
    """The file of a `sqlite:///` store."""
    scheme, _, path = uri.partition(":///")
    return Path(path.partition("?")[0]) if scheme.split("+")[0] == "sqlite" else None


def show_uri(uri: str) -> str:
    """The address without user, password and query; paths are left alone."""
    parts = urlsplit(uri)
    if not parts.netloc:
        return uri
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def _check_exists(uri: str, store: Path | None) -> None:
    if store is not None and not store.is_dir():
        raise ArtefactError(f"{uri}: no such MLflow folder; give the folder that the training wrote to")
    database = sqlite_file(uri)
    if database is None:
        return
    if not database.is_file():
        raise ArtefactError(f"{uri}: no such MLflow database; give the file that the training wrote to")
    try:
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
            connection.execute("SELECT run_uuid FROM runs LIMIT 1")
    except sqlite3.Error as error:
        raise ArtefactError(f"{uri} is not an MLflow database: {error}") from None


def _first_line(error: Exception) -> str:
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    return "it cannot be reached" if "Max retries exceeded" in text else text[:300]


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Set variables and put the old ones back: MLflow takes these settings from nowhere else."""
    before = {key: os.environ.get(key) for key in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value
