"""A head is found by every kind of reference in every kind of MLflow store, and arrives whole or not at all."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contract import ClipMark
from embeddings import write_embeddings_part
from predictor.head import load_head
from predictor.registry import fetch_head, pin_reference
from predictor.tracking import open_tracking, show_uri
from predictor.train import main as train
from serving.errors import ArtefactError

FILES = ("args.json", "model.pt", "class_to_label.json")


@dataclass(frozen=True)
class Store:
    """An MLflow store with the runs that `fill` makes, by what they are for."""

    uri: str
    runs: dict[str, str]


def fill(uri: str, folder: Path, artefacts: str | None = None) -> Store:
    """Runs of the tutorial's shape; each file of a head says whose it is."""
    runs: dict[str, str] = {}
    with open_tracking(uri, must_exist=False) as client:
        experiment = client.create_experiment("doggos", artifact_location=artefacts)
        client.create_experiment("empty", artifact_location=artefacts)
        client.create_registered_model("doggos")

        def add(name: str, *losses: float, status: str = "FINISHED", files: tuple[str, ...] = FILES) -> None:
            run = client.create_run(experiment)
            runs[name] = run.info.run_id
            for file in files:
                (folder / file).write_text(f"{file} of {name}")
                client.log_artifact(run.info.run_id, str(folder / file))
            for step, loss in enumerate(losses):
                client.log_metric(run.info.run_id, "val_loss", loss, step=step)
            client.set_terminated(run.info.run_id, status)
            if files:
                client.create_model_version("doggos", run.info.artifact_uri, run.info.run_id)
            time.sleep(0.002)  # start times are in milliseconds, and the newest of two equals wins

        add("worse", 0.9, 0.1, 0.5)  # the last value counts
        add("older", 0.4, 0.3, files=(*FILES, "clip.json"))
        add("best", 0.4, 0.3, files=(*FILES, "clip.json"))
        add("unmeasured")
        add("not a number", float("nan"))
        add("failed", 0.01, status="FAILED")
        add("running", 0.02, status="RUNNING")
        add("half", 2.0, files=("args.json", "class_to_label.json"))
        add("nothing", 3.0, files=())
        add("deleted", 0.001)
        client.delete_run(runs["deleted"])
        client.set_registered_model_alias("doggos", "champion", "1")
    return Store(uri, runs)


@contextmanager
def mlflow_server(folder: Path) -> Iterator[str]:
    """A real tracking server on loopback that also proxies the artefacts."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    store = ["--backend-store-uri", f"sqlite:///{folder / 'server.db'}", "--artifacts-destination", str(folder / "art")]
    environ = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(
            [*command, *store], cwd=folder, env=environ, stdout=log, stderr=log, start_new_session=True
        )
    try:
        wait_for(f"http://127.0.0.1:{port}/health", server, folder / "server.log")
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(20)


def wait_for(url: str, server: "subprocess.Popen[bytes]", log: Path) -> None:
    until = time.monotonic() + 120
    while time.monotonic() < until and server.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=5)
            return
        except OSError:
            time.sleep(0.2)
    pytest.fail(f"mlflow server did not start: {log.read_text()[-2000:]}")


@pytest.fixture(scope="module", autouse=True)
def working_directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """MLflow likes to make a store in the working directory, which may be read-only."""
    before = Path.cwd()
    os.chdir(tmp_path_factory.mktemp("elsewhere"))
    yield
    left = list(Path.cwd().iterdir())
    os.chdir(before)
    assert left == []


@pytest.fixture(scope="module", params=["sqlite", "file", "path without scheme", "server"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    folder = tmp_path_factory.mktemp("mlflow")
    match request.param:
        case "sqlite":
            yield fill(f"sqlite:///{folder / 'm.db'}", folder, (folder / "a r t").as_uri())
        case "file":
            yield fill(f"file:{folder / 'doggos'}", folder)
        case "path without scheme":
            yield fill(str(folder / "doggos"), folder)
        case "server":
            with mlflow_server(folder) as uri:
                yield fill(uri, folder)


@pytest.fixture(scope="module")
def file_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("mlflow")
    return fill(f"file:{folder / 'doggos'}", folder)


def whose(folder: Path) -> str:
    """The run that all of the files come from."""
    (owner,) = {file.read_text().removeprefix(f"{file.name} of ") for file in folder.iterdir()}
    return owner


@pytest.mark.parametrize(
    ("reference", "owner", "pinned"),
    [
        ("models:/doggos@champion", "worse", "models:/doggos/1"),
        ("models:/doggos/2", "older", "models:/doggos/2"),
        ("{failed}", "failed", "{failed}"),  # named by its id, so wanted
        ("experiment:doggos", "best", "{best}"),
    ],
)
def test_every_reference_in_every_store(reference: str, owner: str, pinned: str, store: Store, tmp_path: Path) -> None:
    before = dict(os.environ)
    reference, pinned = reference.format(**store.runs), pinned.format(**store.runs)
    assert fetch_head(store.uri, reference, tmp_path / "models" / "head") == tmp_path / "models" / "head"
    assert whose(tmp_path / "models" / "head") == owner
    marked = {"clip.json"} if owner in ("best", "older") else set()
    assert {file.name for file in (tmp_path / "models" / "head").iterdir()} == {*FILES, *marked}
    assert pin_reference(store.uri, reference) == pinned
    assert dict(os.environ) == before


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("models:/doggos@challenger", "challenger"),
        ("models:/doggos/99", "99"),
        ("models:/cats@champion", "cats"),
        ("{deleted}", "has been deleted"),
        ("0123456789abcdef0123456789abcdef", "0123456789abcdef"),
        ("experiment:cats", "no experiment 'cats'"),
        ("experiment:empty", "no finished run with a val_loss"),
        ("{half}", "has no model.pt"),
        ("{nothing}", "has no args.json, model.pt, class_to_label.json"),
    ],
)
def test_what_is_missing_is_named_and_nothing_is_written(
    reference: str, said: str, store: Store, tmp_path: Path
) -> None:
    (tmp_path / "head").mkdir()
    (tmp_path / "head" / "args.json").write_text("args.json of before")
    with pytest.raises(ArtefactError) as caught:
        fetch_head(store.uri, reference.format(**store.runs), tmp_path / "head")
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert whose(tmp_path / "head") == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["head"]


@pytest.mark.parametrize(
    "reference", ["", "models:/doggos", "models:/doggos/latest", "experiment:", "../m", "models:/a/b/1"]
)
def test_malformed_reference_is_explained(reference: str, file_store: Store, tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match="use models:/NAME@ALIAS"):
        fetch_head(file_store.uri, reference, tmp_path / "head")


def test_older_head_at_the_destination_is_replaced_as_a_whole(file_store: Store, tmp_path: Path) -> None:
    fetch_head(file_store.uri, "models:/doggos/2", tmp_path / "head")
    fetch_head(file_store.uri, "models:/doggos/1", tmp_path / "head")
    assert whose(tmp_path / "head") == "worse"
    assert {file.name for file in (tmp_path / "head").iterdir()} == set(FILES)  # no clip.json of the other
    assert [path.name for path in tmp_path.iterdir()] == ["head"]


def test_store_that_was_copied_elsewhere_still_gives_its_heads(file_store: Store, tmp_path: Path) -> None:
    """The tutorial's folder mounted into a pod: its runs name the folder of the machine that trained."""
    shutil.copytree(file_store.uri.removeprefix("file:"), tmp_path / "mounted")
    for meta in (tmp_path / "mounted").rglob("meta.yaml"):
        meta.write_text(meta.read_text().replace(file_store.uri.removeprefix("file:"), "/home/somebody/mlflow"))
    for reference in ("models:/doggos@champion", file_store.runs["worse"]):
        fetch_head(f"file:{tmp_path / 'mounted'}", reference, tmp_path / "head")
        assert whose(tmp_path / "head") == "worse"


def test_training_puts_its_head_into_every_store(store: Store, tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    classes = ["akita", "beagle"] * 10
    mark = ClipMark("0123456789abcdef", "acme/clip", 4, True)
    write_embeddings_part(tmp_path / "0.parquet", [f"{row}.jpg" for row in range(20)], classes, rows, mark)
    flags = ["--mlflow_experiment", "trained", "--model_name", "trained", "--epochs", "2"]
    train(["--embeddings", str(tmp_path / "0.parquet"), "--mlflow_uri", store.uri, *flags], {})
    head = load_head(fetch_head(store.uri, "models:/trained@champion", tmp_path / "head"))
    assert (head.classes, head.mark) == (("akita", "beagle"), mark)
    assert pin_reference(store.uri, "models:/trained@champion") == "models:/trained/1"


def garbage(folder: Path) -> str:
    (folder / "m.db").write_bytes(b"not a database" * 100)
    return f"sqlite:///{folder / 'm.db'}"


@pytest.mark.parametrize(
    ("make_uri", "said"),
    [
        (lambda folder: f"sqlite:///{folder / 'm.db'}", "no such MLflow database"),
        (garbage, "is not an MLflow database"),
        (lambda folder: f"file:{folder / 'runs'}", "no such MLflow folder"),
        (lambda folder: str(folder / "runs"), "no such MLflow folder"),
        (lambda folder: "nonsense://host", "nonsense"),
    ],
)
def test_mistyped_store_is_named_and_not_made(make_uri: Callable[[Path], str], said: str, tmp_path: Path) -> None:
    uri = make_uri(tmp_path)
    before = list(tmp_path.iterdir())
    with pytest.raises(ArtefactError, match=said):
        fetch_head(uri, "models:/doggos@champion", tmp_path / "head")
    assert list(tmp_path.iterdir()) == before


def test_server_that_is_not_there_or_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")  # the caller's own values win
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(ArtefactError, match=f"MLflow at http://127.0.0.1:{port}: "):
            fetch_head(f"http://ann:secret@127.0.0.1:{port}", "experiment:doggos", tmp_path / "head")
    with pytest.raises(ArtefactError, match="it cannot be reached") as caught:
        fetch_head(f"http://ann:secret@127.0.0.1:{port}", "experiment:doggos", tmp_path / "head")
    assert "secret" not in str(caught.value)
    assert not (tmp_path / "head").exists()


def test_waits_are_bounded_without_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TIMEOUT", "MAX_RETRIES"):
        monkeypatch.delenv(f"MLFLOW_HTTP_REQUEST_{name}", raising=False)
    with open_tracking("http://127.0.0.1:1"):
        from mlflow.environment_variables import MLFLOW_HTTP_REQUEST_MAX_RETRIES, MLFLOW_HTTP_REQUEST_TIMEOUT

        waits: list[Any] = [MLFLOW_HTTP_REQUEST_TIMEOUT.get(), MLFLOW_HTTP_REQUEST_MAX_RETRIES.get()]
    assert waits[0] * (waits[1] + 1) <= 20


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("http://ann:secret@host:5000/x?token=secret", "http://host:5000/x"),
        ("postgresql://ann:secret@host/db", "postgresql://host/db"),
        ("sqlite:////data/m.db", "sqlite:////data/m.db"),
        ("/data/a@b?c", "/data/a@b?c"),
    ],
)
def test_passwords_are_not_shown(uri: str, shown: str) -> None:
    assert show_uri(uri) == shown
