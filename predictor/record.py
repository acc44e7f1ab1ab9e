"""What an MLflow run holds of a training: where it came from, its epochs, the head and how it did."""

import hashlib
import platform
import tempfile
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from embeddings import Embeddings
from predictor.fit import Epoch
from predictor.head import TrainedHead, save_head

if TYPE_CHECKING:
    from mlflow import MlflowClient

Counts = NDArray[np.int64]  # [C, C], actual by predicted
PACKAGES = ("torch", "numpy", "mlflow", "pyarrow")
MOST_NUMBERED = 40  # classes; with more, numbers in the cells cannot be read


class RunRecord:
    """Writes into one run; the head's files go to the root of its artefacts, as the tutorial's do."""

    def __init__(self, client: "MlflowClient", run_id: str) -> None:
        self._client, self._run_id = client, run_id

    def origin(self, settings: Mapping[str, object], data: Embeddings) -> None:
        """Everything that is needed to train the same head again."""
        sizes = {"rows": len(data.codes), "embedding_dim": data.matrix.shape[1], "num_classes": len(data.labels)}
        for name, value in {**settings, **sizes}.items():
            self._client.log_param(self._run_id, name, value)
        versions = {f"version.{name}": version(name) for name in PACKAGES}
        mark = {"clip": data.mark.fingerprint, "clip.name": data.mark.name} if data.mark else {"clip": "unmarked"}
        tags = {"data": fingerprint_data(data), **mark, "version.python": platform.python_version(), **versions}
        for name, value in tags.items():
            self._client.set_tag(self._run_id, name, value)

    def epoch(self, epoch: Epoch) -> None:
        """One point of each curve."""
        self._metrics(epoch.number, epoch)

    def best(self, epoch: Epoch, last: int) -> None:
        """The best epoch once more, after the `last`: a run is compared by the value that was logged last."""
        self._metrics(last + 1, epoch)
        self._client.log_param(self._run_id, "best_epoch", epoch.number)

    def head(self, head: TrainedHead) -> None:
        """The files that the predictor loads."""
        with tempfile.TemporaryDirectory() as folder:
            save_head(head, Path(folder))
            self._client.log_artifacts(self._run_id, folder)

    def confusion(self, labels: tuple[str, ...], actual: NDArray[np.int32], predicted: NDArray[np.int64]) -> None:
        """Which class was taken for which, as a picture and as a table."""
        counts = np.zeros((len(labels), len(labels)), np.int64)
        np.add.at(counts, (actual, predicted), 1)
        self._client.log_figure(self._run_id, draw_confusion(labels, counts), "validation/confusion.png")
        self._client.log_table(self._run_id, tabulate_confusion(labels, counts), "validation/confusion.json")

    def _metrics(self, step: int, epoch: Epoch) -> None:
        from mlflow.entities import Metric  # after open_tracking has set MLflow up

        now = int(time.time() * 1000)
        names = ("train_loss", "val_loss", "val_accuracy")
        self._client.log_batch(self._run_id, [Metric(name, getattr(epoch, name), now, step) for name in names])


def fingerprint_data(data: Embeddings) -> str:
    """First 16 hex digits of SHA-256 over the rows in their order: paths, classes, embeddings."""
    digest = hashlib.sha256()
    for names in (data.labels, data.paths.to_pylist()):
        digest.update("\n".join(names).encode())
    digest.update(data.codes.tobytes())
    digest.update(np.ascontiguousarray(data.matrix).tobytes())
    return digest.hexdigest()[:16]


def tabulate_confusion(labels: tuple[str, ...], counts: Counts) -> dict[str, list[Any]]:
    """The cells that are not empty, the largest first."""
    actual, predicted = np.nonzero(counts)
    order = np.argsort(-counts[actual, predicted], kind="stable")
    return {
        "actual": [labels[row] for row in actual[order]],
        "predicted": [labels[column] for column in predicted[order]],
        "pictures": counts[actual, predicted][order].tolist(),
    }


def draw_confusion(labels: tuple[str, ...], counts: Counts) -> Figure:
    """Rows are the actual classes, columns what the head took them for; shade is the share of the row."""
    side = min(30.0, 3 + 0.4 * len(labels))  # inches
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    axes.imshow(counts / np.maximum(1, counts.sum(axis=1, keepdims=True)), cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(labels)), labels, rotation=90)
    axes.set_yticks(range(len(labels)), labels)
    axes.set_xlabel("predicted")
    axes.set_ylabel("actual")
    if len(labels) <= MOST_NUMBERED:
        for row, column in zip(*np.nonzero(counts), strict=True):
            axes.text(column, row, counts[row, column], ha="center", va="center", color="darkorange")
    return figure
