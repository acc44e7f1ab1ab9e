"""The sample is good enough to show the service with: its CLIP and a head trained by our program tell breeds apart."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from contract import Pixels
from dogs import BREEDS
from embeddings import write_embeddings_part
from predictor.model import TorchEngine, load_engine
from predictor.registry import fetch_head
from predictor.train import main as train
from sample import draw_pictures, make_clip
from transformer.decode import decode

LABELS = sorted(BREEDS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures, held-out pictures and the CLIP."""
    folder = tmp_path_factory.mktemp("sample")
    draw_pictures(folder / "images")
    draw_pictures(folder / "held_out", pictures_per_class=6, seed=1)
    make_clip(folder / "clip")
    return folder


def decode_folder(folder: Path) -> tuple[Pixels, list[str]]:
    files = sorted(folder.rglob("*.jpg"))
    pixels = [decode(file.read_bytes(), 224, exif_orientation=True) for file in files]
    return np.stack(pixels), [file.parent.name for file in files]


def embed(engine: TorchEngine, pixels: Pixels) -> NDArray[np.float32]:
    return np.concatenate([engine.predict(pixels[i : i + 32]).embedding for i in range(0, len(pixels), 32)])


def test_head_and_neighbours_tell_held_out_pictures_apart(folder: Path) -> None:
    engine = load_engine(folder, allow_unmarked=False, threads=None)
    pixels, classes = decode_folder(folder / "images")
    asked, expected = decode_folder(folder / "held_out")
    rows, queries = embed(engine, pixels), embed(engine, asked)

    similarity = (queries @ rows.T) / np.outer(np.linalg.norm(queries, axis=1), np.linalg.norm(rows, axis=1))
    nearest = [classes[row] for row in similarity.argmax(axis=1)]
    assert np.mean([a == b for a, b in zip(nearest, expected, strict=True)]) > 0.8
    same = np.array(expected)[:, None] == np.array(classes)[None]
    assert similarity[same].mean() - similarity[~same].mean() > 0.2  # spread, as a trained CLIP's similarities are

    (folder / "index").mkdir()
    paths = [f"{name}/{number}.jpg" for number, name in enumerate(classes)]
    write_embeddings_part(folder / "index" / "0.parquet", paths, classes, rows, engine.clip.mark(True))
    store = f"sqlite:///{folder / 'mlflow.db'}"
    train(["--embeddings", str(folder / "index"), "--mlflow_uri", store], {})
    fetch_head(store, "models:/doggos@champion", folder / "head")
    trained = load_engine(folder, allow_unmarked=False, threads=None)
    probabilities = trained.predict(asked).probabilities
    assert probabilities is not None and trained.classes == tuple(LABELS)
    answers = [LABELS[label] for label in probabilities.argmax(axis=1)]
    assert np.mean([a == b for a, b in zip(answers, expected, strict=True)]) > 0.9


def test_pictures_are_many_varied_and_the_same_each_time(folder: Path, tmp_path: Path) -> None:
    draw_pictures(tmp_path / "again", pictures_per_class=2)
    draw_pictures(tmp_path / "other", pictures_per_class=2, seed=1)

    def digests(place: Path) -> dict[str, str]:
        files = (file for name in LABELS for file in sorted((place / name).iterdir())[:2])
        return {str(file.relative_to(place)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}

    first, again, other = (digests(place) for place in (folder / "images", tmp_path / "again", tmp_path / "other"))
    assert first == again
    assert not set(first.values()) & set(other.values())
    files = list((folder / "images").rglob("*.jpg"))
    assert len(LABELS) >= 12 and len(files) == 24 * len(LABELS)
    sizes = [Image.open(file).size for file in files]
    assert len(set(sizes)) > 100
    assert all(min(size) >= 240 and max(size) <= 640 for size in sizes)
    assert any(width > 1.5 * height for width, height in sizes) and any(height > width for width, height in sizes)


def test_other_sizes_of_clip_can_be_made(tmp_path: Path) -> None:
    make_clip(tmp_path / "clip", image_size=48, patch_size=16, seed=3)
    make_clip(tmp_path / "same", image_size=48, patch_size=16, seed=3)
    engines = [
        load_engine(tmp_path, clip=str(tmp_path / name), allow_unmarked=False, threads=None)
        for name in ("clip", "same")
    ]
    assert engines[0].size == 48 and engines[0].dim == 64
    assert engines[0].info == engines[1].info
