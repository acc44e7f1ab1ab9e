"""The head: an embedding -> probabilities; read and written as the tutorial's MLflow artefacts."""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from contract import ClipMark
from predictor.clip import check_finite, loading, read_json
from serving.errors import ArtefactError

ARGUMENTS_FILE = "args.json"
WEIGHTS_FILE = "model.pt"
LABELS_FILE = "class_to_label.json"
MARK_FILE = "clip.json"  # ours: the tutorial's heads do not have it


@dataclass(frozen=True)
class HeadArguments:
    """What args.json says."""

    embedding_dim: int
    hidden_dim: int
    dropout_p: float
    num_classes: int


class Head(nn.Module):
    """Linear -> BatchNorm1d -> ReLU -> Dropout -> Linear; softmax is the caller's, since training wants logits."""

    def __init__(self, arguments: HeadArguments) -> None:
        super().__init__()
        self.fc1 = nn.Linear(arguments.embedding_dim, arguments.hidden_dim)
        self.batch_norm = nn.BatchNorm1d(arguments.hidden_dim)
        self.dropout = nn.Dropout(arguments.dropout_p)
        self.fc2 = nn.Linear(arguments.hidden_dim, arguments.num_classes)

    def forward(self, embedding: Tensor) -> Tensor:
        """[N, D] -> logits [N, C]."""
        hidden = torch.relu(self.batch_norm(self.fc1(embedding)))
        logits: Tensor = self.fc2(self.dropout(hidden))
        return logits


@dataclass(frozen=True)
class TrainedHead:
    """A head with the names of its classes and the mark of the CLIP whose embeddings it was trained on."""

    network: Head
    arguments: HeadArguments
    classes: tuple[str, ...]  # in label order
    mark: ClipMark | None


def load_head(directory: Path) -> TrainedHead:
    """Read a head in evaluation mode; raises ArtefactError naming the file that is wrong."""
    arguments = _read_arguments(directory / ARGUMENTS_FILE)
    classes = _read_classes(directory / LABELS_FILE, arguments.num_classes)
    weights = _read_weights(directory / WEIGHTS_FILE)
    # No memory, whatever args.json says, until the shapes are known to agree.
    with loading(directory / ARGUMENTS_FILE), torch.device("meta"):
        network = Head(arguments)
    _check_shapes(network.state_dict(), weights, directory)
    network.load_state_dict(weights, assign=True)
    network.eval().requires_grad_(False)
    return TrainedHead(network, arguments, classes, _read_mark(directory / MARK_FILE))


def save_head(head: TrainedHead, directory: Path) -> None:
    """Write the files that `load_head` reads."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / ARGUMENTS_FILE).write_text(json.dumps(asdict(head.arguments), indent=2))
    labels = {name: label for label, name in enumerate(head.classes)}
    (directory / LABELS_FILE).write_text(json.dumps(labels, indent=2))
    torch.save(head.network.state_dict(), directory / WEIGHTS_FILE)
    if head.mark:
        (directory / MARK_FILE).write_text(head.mark.to_json())


def _read_arguments(path: Path) -> HeadArguments:
    given = read_json(path)
    expected = [field.name for field in fields(HeadArguments)]
    if sorted(given) != sorted(expected):
        raise ArtefactError(f"{path} has the keys {sorted(given)}, but a head has exactly {expected}")
    for name in ("embedding_dim", "hidden_dim", "num_classes"):
        if type(given[name]) is not int or given[name] < 1:
            raise ArtefactError(f"{path}: {name} is {given[name]!r}, not a whole number above 0")
    if type(given["dropout_p"]) not in (int, float) or not 0 <= given["dropout_p"] <= 1:
        raise ArtefactError(f"{path}: dropout_p is {given['dropout_p']!r}, not a number from 0 to 1")
    return HeadArguments(**given)


def _read_classes(path: Path, num_classes: int) -> tuple[str, ...]:
    labels = read_json(path)
    whole = all(type(label) is int for label in labels.values())
    if not whole or sorted(labels.values()) != list(range(num_classes)):
        raise ArtefactError(
            f"{path}: the labels are not the numbers 0 to {num_classes - 1}, each once, as {ARGUMENTS_FILE} says"
        )
    return tuple(sorted(labels, key=lambda name: labels[name]))


def _read_weights(path: Path) -> dict[str, Tensor]:
    if not path.exists():
        raise ArtefactError(f"{path}: no such file")
    with loading(path):
        weights: Any = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise ArtefactError(f"{path} is not a state dict: save model.state_dict(), not the model")
    check_finite(iter(weights.items()), path)
    return {name: value.float() if value.is_floating_point() else value for name, value in weights.items()}


def _check_shapes(expected: dict[str, Tensor], weights: dict[str, Tensor], directory: Path) -> None:
    path = directory / WEIGHTS_FILE
    if set(expected) != set(weights):
        raise ArtefactError(f"{path} has the tensors {sorted(weights)}, but a head has {sorted(expected)}")
    for name, tensor in expected.items():
        if tensor.shape != weights[name].shape:
            raise ArtefactError(
                f"{path}: {name} is {list(weights[name].shape)}, "
                f"but by {ARGUMENTS_FILE} it should be {list(tensor.shape)}"
            )


def _read_mark(path: Path) -> ClipMark | None:
    if not path.exists():
        return None
    try:
        return ClipMark.from_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ArtefactError(f"{path} cannot be used: {error}") from None
