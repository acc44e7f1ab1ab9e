"""Embeddings and classes -> a fitted head: stratified split, epochs, early stopping."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from contract import Floats
from predictor.head import Head, HeadArguments
from serving.errors import ArtefactError

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class FitSettings:
    """How to fit."""

    learning_rate: float
    batch_size: int
    epochs: int
    patience: int  # epochs without a better val_loss before stopping
    seed: int


@dataclass(frozen=True)
class Epoch:
    """What one pass over the training rows came to."""

    number: int  # from 1
    train_loss: float
    val_loss: float
    val_accuracy: float


@dataclass(frozen=True)
class Fitted:
    """The head as it was after its best epoch, and that epoch."""

    head: Head
    best: Epoch
    epochs: int  # that were run
    predicted: NDArray[np.int64]  # [V], labels of the validation rows


def split_rows(codes: NDArray[np.int32], share: float, seed: int) -> tuple[Rows, Rows]:
    """Rows for training and for validation: `share` of each class, at least one of both; a lone picture trains.

    Raises ArtefactError when nothing can be learned or validated.
    """
    random = np.random.default_rng(seed)
    validation: list[Rows] = []
    for code in np.unique(codes):
        rows = random.permutation(np.flatnonzero(codes == code))
        count = min(max(1, round(share * len(rows))), len(rows) - 1)
        validation.append(rows[:count])
    chosen = np.sort(np.concatenate(validation))
    if len(validation) < 2:
        raise ArtefactError("the embeddings are all of one class; a head needs two or more")
    if not len(chosen):
        raise ArtefactError("every class has one picture only, so none is left to validate with; add pictures")
    return np.setdiff1d(np.arange(len(codes)), chosen), chosen


def fit_head(
    arguments: HeadArguments,
    train: tuple[Floats, NDArray[np.int32]],
    validation: tuple[Floats, NDArray[np.int32]],
    settings: FitSettings,
    report: Callable[[Epoch], None],
) -> Fitted:
    """Fit on (embeddings [N, D], labels [N]), keeping the weights with the lowest val_loss; a seed gives one head.

    Raises ArtefactError when the loss never becomes a number.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        run = _Fit(Head(arguments), settings, _to_tensors(train), _to_tensors(validation))
        for number in range(1, settings.epochs + 1):
            report(run.step(number))
            if run.waited >= settings.patience:
                break
    return run.fitted(number)


def _to_tensors(data: tuple[Floats, NDArray[np.int32]]) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(data[0]), torch.from_numpy(data[1]).long()


class _Fit:
    """A head that is being fitted, and the best it has been."""

    def __init__(
        self, head: Head, settings: FitSettings, train: tuple[Tensor, Tensor], validation: tuple[Tensor, Tensor]
    ) -> None:
        self.head, self.settings, self.train, self.validation = head, settings, train, validation
        self.optimiser = torch.optim.AdamW(head.parameters(), lr=settings.learning_rate)
        self.loss = nn.CrossEntropyLoss()
        self.best: Epoch | None = None
        self.best_weights: dict[str, Any] = {}
        self.waited = 0

    def step(self, number: int) -> Epoch:
        train_loss = self._train_once()
        with torch.inference_mode():
            logits, labels = self.head.eval()(self.validation[0]), self.validation[1]
            val_loss = float(self.loss(logits, labels))
            accuracy = float((logits.argmax(1) == labels).float().mean())
        epoch = Epoch(number, train_loss, val_loss, accuracy)
        self.waited += 1
        if np.isfinite(val_loss) and (self.best is None or val_loss < self.best.val_loss):
            self.best, self.best_weights, self.waited = epoch, copy.deepcopy(self.head.state_dict()), 0
        return epoch

    def _train_once(self) -> float:
        embeddings, labels = self.train
        # Even batches of batch_size or a little more: a last batch of one row is nothing to normalise.
        batches = torch.randperm(len(labels)).tensor_split(max(1, len(labels) // self.settings.batch_size))
        self.head.train()
        total = 0.0
        for rows in batches:
            self.optimiser.zero_grad()
            loss = self.loss(self.head(embeddings[rows]), labels[rows])
            loss.backward()
            self.optimiser.step()
            total += float(loss.detach()) * len(rows)
        return total / len(labels)

    def fitted(self, epochs: int) -> Fitted:
        if self.best is None:
            raise ArtefactError(
                "the validation loss was never a number: lower --learning_rate, or look for huge embeddings"
            )
        self.head.load_state_dict(self.best_weights)
        with torch.inference_mode():
            predicted = self.head.eval()(self.validation[0]).argmax(1).numpy()
        return Fitted(self.head, self.best, epochs, predicted)
