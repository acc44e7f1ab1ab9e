"""A Hugging Face directory -> the vision tower of a CLIP in float32, checked, with its preprocessor and fingerprint."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import CLIPConfig, CLIPVisionConfig, CLIPVisionModelWithProjection
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.utils import logging as transformers_logging

import contract
from predictor.hub import find_weights
from serving.errors import ArtefactError


@dataclass(frozen=True)
class Clip:
    """The half of a CLIP that looks at pictures; embeddings are its image_embeds, not L2-normalised."""

    tower: torch.nn.Module  # CLIPVisionModelWithProjection, float32, in evaluation mode
    size: int  # S
    mean: tuple[float, ...]
    std: tuple[float, ...]
    dim: int  # D
    fingerprint: str
    name: str

    def mark(self, exif_orientation: bool) -> contract.ClipMark:
        """What goes into files that are made with this CLIP."""
        return contract.ClipMark(self.fingerprint, self.name, self.dim, exif_orientation)


def load_clip(directory: Path, name: str | None = None) -> Clip:
    """Read the vision tower only; raises ArtefactError naming the file that cannot be served.

    `name` is for people; without it the last two parts of the path stand in.
    """
    with quiet_transformers():
        config = _read_config(directory / "config.json")
        size, dim = config.image_size, config.projection_dim
        mean, std = _read_preprocessor(directory, size)
        tower = _read_tower(directory, config)
    tensors = [(key, tensor.numpy()) for key, tensor in tower.named_parameters()]
    fingerprint = contract.fingerprint_clip(tensors, size, mean, std)
    return Clip(tower, size, mean, std, dim, fingerprint, name or "/".join(directory.resolve().parts[-2:]))


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; raises ArtefactError naming the file."""
    try:
        fields = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ArtefactError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise ArtefactError(f"{path} cannot be read: {error}") from None
    if not isinstance(fields, dict):
        raise ArtefactError(f"{path} is not a JSON object")
    return fields


def check_finite(tensors: Iterator[tuple[str, torch.Tensor]], path: Path) -> None:
    """Raise ArtefactError when a weight is NaN or infinite."""
    for name, tensor in tensors:
        if not torch.isfinite(tensor).all():
            raise ArtefactError(f"{path}: {name} has values that are not finite; was the training or the copy broken?")


@contextmanager
def loading(path: Path) -> Iterator[None]:
    """Turn whatever a library raises on a broken file into an ArtefactError naming it."""
    try:
        yield
    except ArtefactError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ArtefactError(f"{path} cannot be loaded: {reason}") from error


def _read_config(path: Path) -> CLIPVisionConfig:
    fields = read_json(path)
    kind = fields.get("model_type")
    with loading(path):
        if kind == "clip_vision_model":
            return CLIPVisionConfig.from_dict(fields)
        if kind == "clip":
            whole = CLIPConfig.from_dict(fields)
            # A whole CLIP's projection is built with the outer number; the inner one may be a default.
            whole.vision_config.projection_dim = whole.projection_dim
            return whole.vision_config
    raise ArtefactError(f"{path}: model_type is {kind!r}, but only clip and clip_vision_model can be served")


def _read_preprocessor(directory: Path, size: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std; raises ArtefactError when it does anything else than our decode does."""
    path, fields = _find_preprocessor(directory)
    kind = str(fields.get("image_processor_type") or fields.get("feature_extractor_type") or "CLIP")
    if not kind.startswith("CLIP"):
        raise ArtefactError(f"{path}: {kind} cannot be served; only CLIP's own image processor can")
    with loading(path):
        found = CLIPImageProcessorPil.from_dict(fields).to_dict()
        found["rescale_factor"] = round(255 * found["rescale_factor"], 6) / 255
        mean, std = (tuple(float(x) for x in found[name]) for name in ("image_mean", "image_std"))
    for name, value in _servable(size).items():
        if found[name] != value:
            raise ArtefactError(f"{path}: {name} is {found[name]}, but only {value} can be served")
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise ArtefactError(f"{path}: image_mean and image_std must have three values each, image_std above 0")
    return mean, std


def _find_preprocessor(directory: Path) -> tuple[Path, dict[str, Any]]:
    """As transformers does: the section in processor_config.json first, then the older file."""
    whole = directory / "processor_config.json"
    if whole.exists() and isinstance(section := read_json(whole).get("image_processor"), dict):
        return whole, section
    path = directory / "preprocessor_config.json"
    return path, read_json(path)


def _servable(size: int) -> dict[str, Any]:
    return {
        "do_resize": True,
        "size": {"shortest_edge": size},
        "resample": 3,  # Pillow's number of bicubic
        "do_center_crop": True,
        "crop_size": {"height": size, "width": size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
    }


def _read_tower(directory: Path, config: CLIPVisionConfig) -> torch.nn.Module:
    weights = find_weights(directory)
    if weights is None:
        raise ArtefactError(f"{directory}: no model.safetensors and no pytorch_model.bin")
    with loading(directory / weights):
        tower, report = CLIPVisionModelWithProjection.from_pretrained(
            directory,
            config=config,
            dtype=torch.float32,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    # For both of these transformers would serve random numbers.
    if report["missing_keys"]:
        raise ArtefactError(f"{directory / weights} lacks {min(report['missing_keys'])}")
    for name, found, expected in report["mismatched_keys"]:
        raise ArtefactError(
            f"{directory / weights}: {name} is {list(found)}, but by config.json it should be {list(expected)}"
        )
    check_finite(tower.named_parameters(), directory / weights)
    frozen: torch.nn.Module = tower.eval().requires_grad_(False)
    return frozen


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bar, and no report of the text tower's weights, which are left out on purpose."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
