"""export.json: what an exported model says of itself, and the check that its files are the ones that were exported."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError

from contract import CONTRACT_VERSION, ClipMark
from predictor.agreement import Agreement
from serving.errors import ArtefactError

EXPORT_FILE = "export.json"
ONNX_FILE = "onnx/model.onnx"
NETWORK_FILES = (ONNX_FILE, ONNX_FILE + ".data")  # the graph, and its weights
INT8_FILES = ("int8/model.xml", "int8/model.bin")  # the same in OpenVINO's own format, which NNCF writes
AGREEMENT_FOLDER = "agreement"  # the check on held-out pictures, for people
_AGAIN = "export the model again with python -m predictor.export, or copy the whole folder again"

Precision = Literal["fp32", "bf16", "fp16", "int8"]
REDUCED: tuple[Precision, ...] = ("bf16", "fp16", "int8")
Count = Annotated[int, Field(ge=1)]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


@dataclass(frozen=True)
class Measured:
    """How a precision did when the model was exported."""

    precision: Precision
    agreement: Agreement  # with torch in float32
    one_at_a_time: float  # pictures/s
    eight_at_once: float  # pictures/s


@dataclass(frozen=True)
class HeldOut:
    """How a precision did on the user's own pictures, none of which int8 was calibrated with."""

    precision: Precision
    pictures: Count
    cosine_median: float
    cosine_low: float  # the 5th percentile
    same_top: float  # share of the pictures with the same most probable class, ties or not; 1 without a head
    same_matches: float | None  # share of the matches that are found again; None without an index


@dataclass(frozen=True)
class Thresholds:
    """What a precision must reach on held-out pictures to be served."""

    cosine_median: float
    same_top: float

    def passes(self, found: HeldOut) -> bool:
        """Whether it reached both."""
        return found.cosine_median >= self.cosine_median and found.same_top >= self.same_top


@dataclass(frozen=True)
class Exported:
    """What export.json says."""

    contract: Count
    mark: ClipMark
    resize: str
    size: Count
    dim: Count
    classes: tuple[str, ...]  # in label order; empty without a head
    precision: Precision
    head: str  # where the head came from: a pinned MLflow reference, or empty for a folder's
    processor: str  # that the figures below were measured on
    measured: tuple[Measured, ...]
    versions: dict[str, str]
    files: dict[str, Digest]  # path below the folder, with `/` -> SHA-256
    calibrated_with: int = 0  # pictures
    thresholds: Thresholds | None = None
    held_out: tuple[HeldOut, ...] = ()  # empty without pictures to check on
    usable: bool = True  # no server takes it otherwise

    @property
    def failed(self) -> set[Precision]:
        """The precisions that held-out pictures speak against."""
        return {one.precision for one in self.held_out if self.thresholds and not self.thresholds.passes(one)}

    @property
    def network(self) -> tuple[str, str]:
        """The graph that is served, and its weights."""
        return INT8_FILES if self.precision == "int8" else NETWORK_FILES


_FORM = TypeAdapter(Exported)


def write_exported(exported: Exported, directory: Path) -> None:
    """Write DIRECTORY/export.json."""
    (directory / EXPORT_FILE).write_bytes(_FORM.dump_json(exported, indent=2) + b"\n")


def read_exported(directory: Path) -> Exported:
    """Read DIRECTORY/export.json; raises ArtefactError saying what is wrong with it."""
    path = directory / EXPORT_FILE
    try:
        exported = _FORM.validate_json(path.read_bytes(), strict=True)
    except FileNotFoundError:
        raise ArtefactError(f"{path}: no such file; python -m predictor.export writes one") from None
    except OSError as error:
        raise ArtefactError(f"{path} cannot be read: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ArtefactError(f"{path} is not valid: {place + ': ' if place else ''}{first['msg']}; {_AGAIN}") from None
    if exported.contract > CONTRACT_VERSION:
        raise ArtefactError(f"{path} was written by a later release (contract {exported.contract}); serve it with that")
    if len(set(exported.classes)) != len(exported.classes) or exported.mark.dim != exported.dim:
        raise ArtefactError(f"{path} is not valid: a class is there twice, or dim differs from the mark's; {_AGAIN}")
    if not exported.usable:
        raise ArtefactError(
            f"{path} says that this {exported.precision} export is not usable: it fell below its thresholds "
            f"(see {directory / AGREEMENT_FOLDER}); export the model with another precision or other pictures"
        )
    return exported


def check_network(directory: Path, exported: Exported) -> None:
    """Raise ArtefactError naming the first file of the network that is not as it was exported."""
    for name in exported.network:
        if name not in exported.files:
            raise ArtefactError(f"{directory / EXPORT_FILE} is not valid: files lacks {name}; {_AGAIN}")
        if hash_file(directory / name) != exported.files[name]:
            raise ArtefactError(f"{directory / name} is not the file that was exported: its SHA-256 differs; {_AGAIN}")


def hash_file(path: Path) -> str:
    """SHA-256 of a file, in hex digits; raises ArtefactError when it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ArtefactError(f"{path} cannot be read: {error.strerror}; {_AGAIN}") from None
