"""A data set and a head that other tools made, in the tutorial's layout and without marks, served as they are."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import mlflow
import pandas as pd
import pytest

from launch import picture_server, running
from tests.conftest import LOOPBACK_ONLY
from tests.integration.test_answer import NEARLY, TO_THE_LAST_DIGITS, assert_same, decoded_as_png
from tests.reference import reference_answer
from workshop import Workshop

ROOT = Path(__file__).parents[2]
URI = "file:./mlflow/doggos"


@pytest.fixture(scope="module")
def theirs(workshop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Their folder, which is the working directory while they train and we serve: their URIs are relative."""
    folder = tmp_path_factory.mktemp("theirs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.chdir(folder)
        command = [sys.executable, "-m", "tests.tutorial_training", str(workshop.model / "clip"), str(workshop.images)]
        environ = {**os.environ, "MLFLOW_ALLOW_FILE_STORE": "true", "MLFLOW_DISABLE_TELEMETRY": "true"}
        done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        yield folder


def find_best_run(folder: Path) -> Path:
    """The artefacts of the run with the lowest last val_loss, read from the files as MLflow writes them."""
    losses = {file: float(file.read_text().splitlines()[-1].split()[1]) for file in folder.rglob("metrics/val_loss")}
    assert len(losses) == 3
    return min(losses, key=lambda file: losses[file]).parents[1] / "artifacts"


def test_both_servers_give_the_answers_of_plain_numpy(workshop: Workshop, theirs: Path) -> None:
    with ExitStack() as stack:
        flags = ["--clip", str(workshop.model / "clip"), "--mlflow_uri", URI, "--mlflow_experiment", "doggos"]
        flags += ["--allow_unmarked", "on"]
        predictor = stack.enter_context(running("predictor", flags, theirs / "predictor.log"))
        flags = ["--predictor_host", predictor.http, "--index_dir", "embeddings", "--allow_unmarked", "on"]
        flags += LOOPBACK_ONLY
        transformer = stack.enter_context(running("transformer", flags, theirs / "transformer.log"))
        pictures = stack.enter_context(picture_server(workshop.asked))
        right = 0
        for picture in sorted(workshop.asked.rglob("*.jpg"))[::4]:
            name = picture.relative_to(workshop.asked).as_posix()
            body = {"url": f"{pictures}/{name}", "k": 3}  # as the tutorial's callers send it
            answer: dict[str, Any] = httpx.post(f"http://{transformer.http}/predict/", json=body, timeout=60).json()
            data = picture.read_bytes()
            for read, near in ((decoded_as_png(data), TO_THE_LAST_DIGITS), (data, NEARLY)):
                expected = reference_answer(
                    workshop.model / "clip", find_best_run(theirs / "mlflow"), theirs / "embeddings", read, k=3, n=5,
                )  # fmt: skip
                assert_same(answer, expected, *near)
            assert all(match["path"].startswith("s3://bucket/") for match in answer["top_matches"])
            right += max(answer["probabilities"], key=answer["probabilities"].__getitem__) == picture.parent.name
        assert right >= 6  # of 8: their head has learnt something


def test_it_is_their_format(theirs: Path) -> None:
    """The control: nothing of this project is in their files."""
    frame = pd.read_parquet(theirs / "embeddings" / "0.parquet")
    assert list(frame.columns) == ["path", "class", "embedding", "width"]
    run = find_best_run(theirs / "mlflow")
    assert {file.name for file in run.iterdir()} == {"args.json", "model.pt", "class_to_label.json"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        client = mlflow.MlflowClient(URI)
        (experiment,) = client.search_experiments(filter_string="name = 'doggos'")
        best = client.search_runs([experiment.experiment_id], order_by=["metrics.val_loss ASC"])[0]
    assert best.info.run_id == run.parent.name
