"""What all systems serve and are asked: a ViT-B/32 of random weights, a head, an index and pictures, made once."""

import functools
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from contract import ClipMark, Floats, Pixels

ROOT = Path(".bench/workload-2")  # another name whenever what is made changes
CLASSES, ROWS, LARGE_PICTURES = 120, 20_580, 8  # the first two as in Stanford Dogs
PRECISIONS = ("fp32", "bf16", "int8")  # of the exports
SMALL = "500x375"
QUALITY = 88  # of the JPEGs
SIZES = {SMALL: (500, 375), "1080p": (1920, 1080), "12mp": (4000, 3000)}
K, N = 3, 5  # asked of every system


@dataclass(frozen=True)
class Workload:
    """Where everything lies."""

    root: Path = ROOT

    @property
    def model(self) -> Path:
        """clip/ and head/, as the torch engine and the other systems load them."""
        return self.root / "model"

    @property
    def index(self) -> Path:
        """A folder with one Parquet file."""
        return self.root / "index"

    def exported(self, precision: str) -> Path:
        """The folder that the OpenVINO engine serves."""
        return self.root / f"exported-{precision}"

    def pictures(self, size: str) -> Path:
        """A folder of JPEGs."""
        return self.root / "pictures" / size


def make_workload(precisions: Sequence[str] = PRECISIONS, pictures: str = SMALL, root: Path = ROOT) -> Workload:
    """Make what is not there yet; `precisions` that cannot be made here are left out."""
    workload = Workload(root)
    for size in {SMALL, pictures}:
        _make(workload.pictures(size), functools.partial(_draw, *SIZES[size]))
    _make(workload.model, _make_clip)
    _make(workload.index, functools.partial(_make_head_and_index, workload))
    for precision in precisions:
        if not workload.exported(precision).exists() and _can_export(precision):
            _export(workload, precision)
    return workload


def _can_export(precision: str) -> bool:
    from predictor.openvino import find_precisions

    return precision in find_precisions() and (precision != "int8" or find_spec("nncf") is not None)


def _make(target: Path, build: Callable[[Path], None]) -> None:
    """Build under another name first, so that an interrupted run leaves nothing half made."""
    if target.exists():
        return
    print(f"making {target}", file=sys.stderr, flush=True)
    draft = target.with_name(target.name + ".draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    build(draft)
    draft.rename(target)


def _draw(width: int, height: int, folder: Path) -> None:
    """Pictures with the spectrum of photographs, so that their JPEGs are as long and as slow to decode."""
    from PIL import Image

    for number in range(CLASSES if width < 1000 else LARGE_PICTURES):
        Image.fromarray(draw_photograph(width, height, number)).save(folder / f"{number:03}.jpg", quality=QUALITY)


def draw_photograph(width: int, height: int, seed: int) -> Pixels:
    """Noise with the spectrum of photographs: [H, W, 3] uint8."""
    random = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))  # [H, W // 2 + 1]
    shape = (3, *frequency.shape)
    spectrum = (random.normal(size=shape) + 1j * random.normal(size=shape)) / np.maximum(frequency, 1 / width) ** 1.2
    spectrum[1:] = spectrum[:1] + 0.4 * spectrum[1:]  # colours follow the light
    waves = np.fft.irfft2(spectrum, s=(height, width))  # [3, H, W]
    levels = random.uniform(90, 160) + random.uniform(35, 70) * waves / waves.std()
    pixels: Pixels = levels.clip(0, 255).astype(np.uint8).transpose(1, 2, 0)
    return pixels


def _make_clip(folder: Path) -> None:
    import torch
    from transformers import CLIPConfig, CLIPModel
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    torch.manual_seed(0)
    CLIPModel(CLIPConfig()).eval().save_pretrained(folder / "clip")
    CLIPImageProcessorPil().save_pretrained(folder / "clip")


def _make_head_and_index(workload: Workload, index: Path) -> None:
    """Each picture is the middle of a class, whose rows lie around it, and the head is trained on the rows."""
    from embeddings import write_embeddings_part
    from predictor.model import load_engine
    from transformer.decode import decode

    bare = load_engine(workload.model, allow_unmarked=False, threads=None)
    files = sorted(workload.pictures(SMALL).iterdir())
    pixels = np.stack([decode(file.read_bytes(), bare.size, exif_orientation=False) for file in files])
    embeddings = np.concatenate([bare.predict(part).embedding for part in np.split(pixels, len(pixels) // 8)])
    mark = bare.clip.mark(exif_orientation=False)
    classes = tuple(f"breed_{number:03}" for number in range(CLASSES))
    rows, codes = _draw_rows(embeddings)
    _train_head(workload.model / "head", classes, rows, codes, mark)
    paths = [f"{classes[code]}/{number:05}.jpg" for number, code in enumerate(codes)]
    write_embeddings_part(index / "part-00000.parquet", paths, [classes[code] for code in codes], rows, mark)


def _draw_rows(embeddings: Floats) -> tuple[Floats, NDArray[np.int32]]:
    """Embeddings [ROWS, D] around those of the pictures, and their classes [ROWS]."""
    random = np.random.default_rng(2)
    codes = random.integers(0, CLASSES, ROWS).astype(np.int32)
    noise = random.normal(scale=0.5 * embeddings.std(0), size=(ROWS, embeddings.shape[1]))
    return (embeddings[codes] + noise).astype(np.float32), codes


def _train_head(folder: Path, classes: tuple[str, ...], rows: Floats, codes: NDArray[np.int32], mark: ClipMark) -> None:
    """As a user would: the answers of a head that was not trained hang on the last digits of an embedding."""
    from predictor.fit import FitSettings, fit_head, split_rows
    from predictor.head import HeadArguments, TrainedHead, save_head

    shutil.rmtree(folder, ignore_errors=True)
    train, validation = split_rows(codes, 0.1, seed=1)
    arguments = HeadArguments(mark.dim, 256, 0.3, len(classes))
    settings = FitSettings(learning_rate=1e-3, batch_size=256, epochs=10, patience=3, seed=1)
    fitted = fit_head(
        arguments, (rows[train], codes[train]), (rows[validation], codes[validation]), settings, lambda _: None
    )
    save_head(TrainedHead(fitted.head, arguments, classes, mark), folder)


def _export(workload: Workload, precision: str) -> None:
    """As a user would, but that int8 passes however random weights take it: it is for speed and memory here."""
    flags = ["--model_dir", str(workload.model), "--output", str(workload.exported(precision))]
    if precision == "int8":
        flags += ["--calibration", str(workload.pictures(SMALL)), "--min_cosine", "0", "--min_same_top", "0"]
    subprocess.run([sys.executable, "-m", "predictor.export", *flags, "--precision", precision], check=True)


if __name__ == "__main__":
    make_workload()
