"""`python -m predictor.train`: embeddings in Parquet -> a head in MLflow, as the tutorial's runs hold it."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import torch
from tqdm import tqdm

from embeddings import Embeddings, read_embeddings
from predictor.fit import Epoch, FitSettings, fit_head, split_rows
from predictor.head import HeadArguments, TrainedHead
from predictor.promotion import register
from predictor.record import RunRecord
from predictor.tracking import open_tracking, show_uri, sqlite_file
from serving.errors import SettingError
from serving.program import run_program
from serving.settings import at_least, load_settings, setting

if TYPE_CHECKING:
    from mlflow import MlflowClient


def _share(text: str) -> float:
    value = float(text)
    if not 0 < value < 1:
        raise ValueError("use a number between 0 and 1")
    return value


def _dropout(text: str) -> float:
    return 0.0 if float(text) == 0 else _share(text)


def _rate(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1:
        raise ValueError("use a number above 0, at most 1")
    return value


@dataclass(frozen=True)
class TrainSettings:
    """Train the head on embeddings and register it: Parquet to an MLflow run, a model version and an alias."""

    embeddings: str = setting("", "folder or file with the embeddings, as transformer.embed writes them")
    mlflow_uri: str = setting("", "MLflow's address: http://..., sqlite:///FILE or a folder")
    mlflow_experiment: str = setting("doggos", "experiment of the run; made when it is not there")
    model_name: str = setting("doggos", "name in the model registry")
    alias: str = setting("champion", "alias that moves to the new version when it is not worse; empty moves none")
    hidden_dim: int = setting(256, "width of the head's hidden layer", parse=at_least(1))
    dropout_p: float = setting(0.3, "share of the hidden layer that is dropped in training", parse=_dropout)
    learning_rate: float = setting(0.001, "step of the optimiser", parse=_rate)
    batch_size: int = setting(64, "rows in one step", parse=at_least(2))
    epochs: int = setting(200, "most passes over the training rows", parse=at_least(1))
    patience: int = setting(15, "passes without a better val_loss before it stops", parse=at_least(1))
    validation_share: float = setting(0.2, "share of each class that is held back to validate", parse=_share)
    seed: int = setting(0, "seed of the split, the weights and the order", parse=at_least(0))
    threads: int = setting(1, "threads; one is the fastest below some ten thousand rows", parse=at_least(1))

    def __post_init__(self) -> None:
        for flag in ("embeddings", "mlflow_uri", "mlflow_experiment", "model_name"):
            if not getattr(self, flag):
                raise SettingError(f"--{flag} is missing")


def main(argv: Sequence[str], environ: Mapping[str, str]) -> None:
    """Read the settings and the embeddings, train, register."""
    settings = load_settings(TrainSettings, "python -m predictor.train", "TRAIN_", argv, environ)
    data = read_embeddings(settings.embeddings)
    if data.mark is None:
        _say(
            "the embeddings do not say which CLIP made them, so the predictor will want --allow_unmarked for this head"
        )
    torch.set_num_threads(settings.threads)
    with open_tracking(settings.mlflow_uri, must_exist=False) as client, start_run(client, settings) as run_id:
        val_loss = _train(RunRecord(client, run_id), settings, data)
        registered = register(client, run_id, settings.model_name, settings.alias, val_loss)
    _say(registered.sentence)
    print(f"run={run_id} reference={registered.reference}")  # noqa: T201


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr)  # noqa: T201


@contextmanager
def start_run(client: "MlflowClient", settings: TrainSettings) -> Iterator[str]:
    """A run that ends as FINISHED, FAILED or KILLED, whatever happens inside."""
    run_id: str = client.create_run(_find_experiment(client, settings)).info.run_id
    try:
        yield run_id
    except BaseException as error:
        with suppress(Exception):  # the first error is the one to tell
            client.set_terminated(run_id, "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise
    client.set_terminated(run_id)


def _find_experiment(client: "MlflowClient", settings: TrainSettings) -> str:
    experiment = client.get_experiment_by_name(settings.mlflow_experiment)
    if experiment is not None:
        return str(experiment.experiment_id)
    database = sqlite_file(settings.mlflow_uri)
    # MLflow would put the files of a database's runs into the working directory.
    place = (database.parent / "mlartifacts").absolute().as_uri() if database else None
    return str(client.create_experiment(settings.mlflow_experiment, artifact_location=place))


def _train(record: RunRecord, settings: TrainSettings, data: Embeddings) -> float:
    """Train within a run and put everything into it; returns the best val_loss."""
    record.origin(_settings_to_log(settings), data)
    train, validation = split_rows(data.codes, settings.validation_share, settings.seed)
    arguments = HeadArguments(data.matrix.shape[1], settings.hidden_dim, settings.dropout_p, len(data.labels))
    learn = FitSettings(settings.learning_rate, settings.batch_size, settings.epochs, settings.patience, settings.seed)

    pause = 0.2 if sys.stderr.isatty() else 10.0  # now and then a line where nobody watches
    with tqdm(total=settings.epochs, desc="train", unit=" epochs", mininterval=pause) as bar:

        def report(epoch: Epoch) -> None:
            record.epoch(epoch)
            bar.set_postfix(val_loss=f"{epoch.val_loss:.4f}", val_accuracy=f"{epoch.val_accuracy:.3f}", refresh=False)
            bar.update()

        parts = [(data.matrix[rows], data.codes[rows]) for rows in (train, validation)]
        fitted = fit_head(arguments, parts[0], parts[1], learn, report)
    record.best(fitted.best, fitted.epochs)
    record.head(TrainedHead(fitted.head, arguments, data.labels, data.mark))
    record.confusion(data.labels, data.codes[validation], fitted.predicted)
    return fitted.best.val_loss


def _settings_to_log(settings: TrainSettings) -> dict[str, object]:
    """All but the store's own address; addresses may hold a password."""
    fields = {name: value for name, value in asdict(settings).items() if name != "mlflow_uri"}
    return {**fields, "embeddings": show_uri(settings.embeddings)}


if __name__ == "__main__":
    run_program(main)
