"""What the Ray application answers, written from its description: Hugging Face, plain pyarrow and numpy, full sorts.

Shares no code with the predictor and the transformer, so that it can judge them.
"""

import io
import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from transformers import CLIPVisionModelWithProjection
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

Match = dict[str, Any]  # class, path, similarity


def reference_pixels(data: bytes, size: int, exif: bool) -> NDArray[np.uint8]:
    """Resized and cropped, not normalised: [size, size, 3]."""
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": size}, crop_size={"height": size, "width": size}, do_rescale=False, do_normalize=False
    )
    pixels: NDArray[np.uint8] = _process(processor, _read_picture(data, exif))  # [3, size, size]
    assert pixels.dtype == np.uint8
    return pixels.transpose(1, 2, 0)


def reference_embedding(clip_dir: str | Path, data: bytes, exif: bool = False) -> NDArray[np.float32]:
    """`image_embeds` [D], not normalised; the Ray application does not turn pictures as EXIF says."""
    processor, model = _load_clip(str(clip_dir))
    pixels = torch.from_numpy(_process(processor, _read_picture(data, exif)))[None]  # [1, 3, S, S]
    with torch.inference_mode():
        embedding: NDArray[np.float32] = model(pixel_values=pixels).image_embeds[0].numpy()
    return embedding


def reference_probabilities(head_dir: str | Path, embedding: NDArray[np.float32]) -> dict[str, float]:
    """Linear, BatchNorm with its running statistics, ReLU, Linear, softmax: class -> probability, in label order."""
    folder = Path(head_dir)
    state = torch.load(folder / "model.pt", map_location="cpu", weights_only=True)
    weights = {name: tensor.numpy().astype(np.float64) for name, tensor in state.items()}
    args = json.loads((folder / "args.json").read_text())
    labels = json.loads((folder / "class_to_label.json").read_text())
    assert weights["fc1.weight"].shape == (args["hidden_dim"], args["embedding_dim"])
    hidden = weights["fc1.weight"] @ embedding.astype(np.float64) + weights["fc1.bias"]
    hidden = (hidden - weights["batch_norm.running_mean"]) / np.sqrt(weights["batch_norm.running_var"] + 1e-5)
    hidden = np.maximum(hidden * weights["batch_norm.weight"] + weights["batch_norm.bias"], 0)
    logits = weights["fc2.weight"] @ hidden + weights["fc2.bias"]
    assert logits.shape == (args["num_classes"],)
    powers = np.exp(logits - logits.max())
    return {name: float(powers[label] / powers.sum()) for name, label in sorted(labels.items(), key=lambda x: x[1])}


def reference_matches(
    parquet_dir: str | Path, embedding: NDArray[np.float32], classes: Sequence[str], n: int
) -> list[Match]:
    """The `n` rows of `classes` with the highest cosine similarity; ties in row order."""
    wanted = [row for row in _read_rows(Path(parquet_dir)) if row["class"] in set(classes)]
    found = [
        {"class": row["class"], "path": row["path"], "similarity": _cosine(embedding, row["embedding"])}
        for row in wanted
    ]
    return sorted(found, key=lambda match: -match["similarity"])[:n]  # sorted() keeps the order of equal keys


def reference_answer(
    clip_dir: str | Path,
    head_dir: str | Path,
    parquet_dir: str | Path,
    data: bytes,
    k: int = 4,
    n: int = 5,
    exif: bool = False,
) -> dict[str, Any]:
    """The whole answer of `/predict/` for a picture's bytes."""
    embedding = reference_embedding(clip_dir, data, exif)
    probabilities = reference_probabilities(head_dir, embedding)
    top = sorted(probabilities, key=lambda name: -probabilities[name])[:k]
    return {"probabilities": probabilities, "top_matches": reference_matches(parquet_dir, embedding, top, n)}


def _read_picture(data: bytes, exif: bool) -> Image.Image:
    image: Image.Image = Image.open(io.BytesIO(data))
    if exif:
        image = ImageOps.exif_transpose(image)
    # By way of an array, as the Ray application does: Hugging Face would paint transparency white otherwise.
    return Image.fromarray(np.array(image.convert("RGB")))


def _process(processor: Any, image: Image.Image) -> NDArray[Any]:
    pixels: NDArray[Any] = processor(images=image, return_tensors="np")["pixel_values"][0]
    return pixels


@lru_cache
def _load_clip(clip_dir: str) -> tuple[Any, Any]:
    model = CLIPVisionModelWithProjection.from_pretrained(clip_dir, dtype=torch.float32).eval()
    return CLIPImageProcessorPil.from_pretrained(clip_dir), model


def _read_rows(folder: Path) -> list[dict[str, Any]]:
    files = sorted(folder.rglob("*.parquet")) if folder.is_dir() else [folder]
    return [row for file in files for row in pq.ParquetFile(file).read().to_pylist()]


def _cosine(one: Any, other: Any) -> float:
    a, b = np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)
    length = float(np.sqrt((a * a).sum()) * np.sqrt((b * b).sum()))
    return float((a * b).sum()) / length if length else 0.0
