"""Training: what is split, what is kept, and what MLflow holds in the end."""

import hashlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from contract import ClipMark
from embeddings import read_embeddings, write_embeddings_part
from predictor.fit import Epoch, FitSettings, fit_head, split_rows
from predictor.head import HeadArguments, load_head
from predictor.registry import fetch_head
from predictor.tracking import open_tracking
from predictor.train import main
from serving.errors import ArtefactError, SettingError

MARK = ClipMark("0123456789abcdef", "acme/clip", 8, True)
SIZES = {"akita": 30, "beagle": 20, "corgi": 10, "lone_wolf": 1}


def write_parquet(folder: Path, apart: float = 3.0, sizes: dict[str, int] = SIZES) -> Path:
    """A cloud of rows for each class, their centres `apart`."""
    random = np.random.default_rng(0)
    classes = [name for name, size in sizes.items() for _ in range(size)]
    centres = dict(zip(sizes, random.normal(size=(len(sizes), 8)) * apart, strict=True))
    rows = np.stack([centres[name] + random.normal(size=8) for name in classes]).astype(np.float32)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [f"{name}/{number}.jpg" for number, name in enumerate(classes)]
    write_embeddings_part(folder / "part.parquet", paths, classes, rows, MARK)
    return folder


@dataclass
class Store:
    """A sqlite store and the embeddings to train on."""

    folder: Path

    @property
    def uri(self) -> str:
        return f"sqlite:///{self.folder / 'mlflow.db'}"

    def train(self, *flags: str) -> None:
        main(["--embeddings", str(self.folder / "index"), "--mlflow_uri", self.uri, *flags], {})

    def runs(self) -> list[Any]:
        """Newest first."""
        with open_tracking(self.uri) as client:
            return list(client.search_runs([client.get_experiment_by_name("doggos").experiment_id]))

    def champion(self) -> str:
        with open_tracking(self.uri) as client:
            return f"models:/doggos/{client.get_model_version_by_alias('doggos', 'champion').version}"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """One store for all tests: making a database takes MLflow seconds."""
    folder = tmp_path_factory.mktemp("store")
    write_parquet(folder / "index")
    before = Path.cwd()
    os.chdir(tmp_path_factory.mktemp("elsewhere"))
    yield Store(folder)
    left = list(Path.cwd().iterdir())
    os.chdir(before)
    assert left == []  # MLflow likes to make a store in the working directory


def artefacts(run: Any) -> Path:
    return Path(run.info.artifact_uri.removeprefix("file://"))


def test_run_holds_the_head_as_the_tutorial_does_and_what_is_needed_to_repeat_it(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    store.train("--epochs", "60", "--patience", "5", "--hidden_dim", "16", "--learning_rate", "0.01")
    run = store.runs()[0]
    out, progress = capsys.readouterr()
    assert out == f"run={run.info.run_id} reference=models:/doggos/1\n"
    assert "champion is now models:/doggos/1" in progress and "epochs" in progress
    assert store.champion() == "models:/doggos/1"
    assert run.info.status == "FINISHED"

    folder = artefacts(run)
    assert folder.is_relative_to(store.folder)
    assert json.loads((folder / "args.json").read_text()) == {
        "embedding_dim": 8,
        "hidden_dim": 16,
        "dropout_p": 0.3,
        "num_classes": 4,
    }
    assert json.loads((folder / "class_to_label.json").read_text()) == {
        "akita": 0,
        "beagle": 1,
        "corgi": 2,
        "lone_wolf": 3,
    }
    assert ClipMark.from_json((folder / "clip.json").read_text()) == MARK
    assert {file.name for file in folder.iterdir()} == {
        "args.json",
        "class_to_label.json",
        "clip.json",
        "model.pt",
        "validation",
    }
    params, tags = run.data.params, run.data.tags
    assert params["seed"] == "0" and params["learning_rate"] == "0.01" and params["rows"] == "61"
    assert "mlflow_uri" not in params
    assert tags["clip"] == MARK.fingerprint and torch.__version__.startswith(tags["version.torch"])
    assert len(bytes.fromhex(tags["data"])) == 8


def test_runs_last_val_loss_is_its_best_and_belongs_to_the_saved_weights(store: Store) -> None:
    store.train("--epochs", "40", "--patience", "4", "--learning_rate", "0.05")
    run = store.runs()[0]
    with open_tracking(store.uri) as client:
        history = [
            m.value for m in sorted(client.get_metric_history(run.info.run_id, "val_loss"), key=lambda m: m.step)
        ]
    epochs = history[:-1]
    assert run.data.metrics["val_loss"] == history[-1] == min(epochs)
    assert epochs.index(min(epochs)) + 1 == int(run.data.params["best_epoch"])
    assert len(epochs) == int(run.data.params["best_epoch"]) + 4 < 40
    data = read_embeddings(str(store.folder / "index"))
    _, validation = split_rows(data.codes, 0.2, 0)
    with torch.inference_mode():
        logits = load_head(artefacts(run)).network(torch.from_numpy(data.matrix[validation]))
        loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(data.codes[validation]).long())
    assert float(loss) == pytest.approx(history[-1], rel=1e-5)


def test_confusion_counts_every_validation_row_once(store: Store) -> None:
    store.train("--epochs", "3")
    folder = artefacts(store.runs()[0]) / "validation"
    with Image.open(io.BytesIO((folder / "confusion.png").read_bytes())) as picture:
        assert picture.format == "PNG" and min(picture.size) > 200
    table = json.loads((folder / "confusion.json").read_text())
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    held_back = {name: sum(row["pictures"] for row in rows if row["actual"] == name) for name in SIZES}
    assert held_back == {"akita": 6, "beagle": 4, "corgi": 2, "lone_wolf": 0}


def test_same_seed_and_rows_give_the_same_head(store: Store) -> None:
    digests = []
    for seed in ("5", "5", "6"):
        store.train("--epochs", "4", "--seed", seed)
        state = torch.load(artefacts(store.runs()[0]) / "model.pt")
        digests.append(hashlib.sha256(b"".join(t.numpy().tobytes() for t in state.values())).hexdigest())
    assert digests[0] == digests[1] != digests[2]


def test_alias_moves_only_to_a_head_that_is_not_worse(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    store.train("--epochs", "30", "--learning_rate", "0.01", "--model_name", "doggos", "--seed", "1")
    best = store.champion()
    capsys.readouterr()
    store.train("--epochs", "1", "--learning_rate", "0.00001")
    out, said = capsys.readouterr()
    assert store.champion() == best
    assert "champion stays" in said and "worse" in said
    assert best not in out  # the reference is the new version's
    store.train("--epochs", "60", "--learning_rate", "0.02", "--hidden_dim", "512", "--dropout_p", "0", "--seed", "1")
    assert "champion is now" in capsys.readouterr()[1]
    assert store.champion() != best


def test_store_that_was_moved_still_gives_its_heads(store: Store, tmp_path: Path) -> None:
    store.train("--epochs", "1")
    run_id, moved = store.runs()[0].info.run_id, tmp_path / "moved"
    store.folder.rename(moved)
    try:
        fetch_head(f"sqlite:///{moved / 'mlflow.db'}", run_id, tmp_path / "head")
    finally:
        moved.rename(store.folder)
    assert load_head(tmp_path / "head").mark == MARK


def test_failed_run_is_marked_failed_and_registers_nothing(store: Store, tmp_path: Path) -> None:
    write_parquet(tmp_path / "index", apart=1e38)  # overflows in the first layer
    with open_tracking(store.uri) as client:
        before = len(client.search_model_versions("name = 'doggos'"))
    with pytest.raises(ArtefactError, match="never a number: lower --learning_rate"):
        store.train("--embeddings", str(tmp_path / "index"), "--epochs", "2")
    run = store.runs()[0]
    assert run.info.status == "FAILED" and not artefacts(run).exists()
    with open_tracking(store.uri) as client:
        assert len(client.search_model_versions("name = 'doggos'")) == before


@pytest.mark.parametrize(
    ("sizes", "said"), [({"akita": 9}, "all of one class"), ({"akita": 1, "pug": 1}, "one picture only")]
)
def test_embeddings_that_teach_nothing_are_refused(
    sizes: dict[str, int], said: str, store: Store, tmp_path: Path
) -> None:
    write_parquet(tmp_path / "index", sizes=sizes)
    with pytest.raises(ArtefactError, match=said):
        store.train("--embeddings", str(tmp_path / "index"))


@pytest.mark.parametrize(
    "flags",
    [
        ["--mlflow_uri", ""],
        ["--validation_share", "1"],
        ["--dropout_p", "1"],
        ["--learning_rate", "nan"],
        ["--batch_size", "1"],
        ["--epochs", "0"],
    ],
)
def test_wrong_settings_are_refused(flags: list[str]) -> None:
    with pytest.raises(SettingError, match=flags[0]):
        main(["--embeddings", "x", "--mlflow_uri", "sqlite:///x.db", *flags], {})


@hypothesis.settings(deadline=None)
@given(st.lists(st.integers(1, 40), min_size=2, max_size=12), st.floats(0.01, 0.99), st.integers(0, 9))
def test_split_is_stratified_and_loses_no_row(sizes: list[int], share: float, seed: int) -> None:
    codes = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes), dtype=np.int32), sizes))
    if max(sizes) == 1:
        with pytest.raises(ArtefactError):
            split_rows(codes, share, seed)
        return
    train, validation = split_rows(codes, share, seed)
    assert sorted([*train, *validation]) == list(range(len(codes)))
    for code, size in enumerate(sizes):
        held_back = int((codes[validation] == code).sum())
        assert (size == 1 and held_back == 0) or 1 <= held_back < size
        assert abs(held_back - share * size) <= 1


@pytest.mark.parametrize("rows", [2, 3, 5, 64, 65])
def test_no_batch_is_too_small_to_normalise(rows: int) -> None:
    data = (np.eye(8, dtype=np.float32)[np.arange(rows) % 8], (np.arange(rows) % 2).astype(np.int32))
    epochs: list[Epoch] = []
    fit_head(HeadArguments(8, 4, 0.0, 2), data, data, FitSettings(0.01, 2, 3, 3, 0), epochs.append)
    assert [epoch.number for epoch in epochs] == [1, 2, 3]


def test_program_needs_no_kserve_and_switches_telemetry_off(store: Store) -> None:
    """In a process of its own, without the variables by which MLflow notices a test run."""
    script = """
import os, sys
from predictor.train import main
before = dict(os.environ)
main(sys.argv[1:], os.environ)
from mlflow.telemetry import get_telemetry_client
assert get_telemetry_client() is None
assert "kserve" not in sys.modules
os.environ.pop("_RJEM_MALLOC_CONF", None)  # of polars, which MLflow imports where it is
changed = before.items() ^ os.environ.items()
assert not changed, changed
"""
    noticed = ("PYTEST_CURRENT_TEST", "CI", "GITHUB_ACTIONS", "DO_NOT_TRACK", "MLFLOW_DISABLE_TELEMETRY")
    # Of MLflow and polars, which another test may have imported into this process.
    noticed += ("_MLFLOW_TELEMETRY_SESSION_ID", "_RJEM_MALLOC_CONF")
    environ = {key: value for key, value in os.environ.items() if key not in noticed}
    root = str(Path(__file__).parents[3])
    flags = ["--embeddings", str(store.folder / "index"), "--mlflow_uri", store.uri, "--epochs", "1"]
    done = subprocess.run(
        [sys.executable, "-c", script, *flags], env={**environ, "PYTHONPATH": root}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("run=")
