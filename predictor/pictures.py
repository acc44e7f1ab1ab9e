"""A user's own pictures to pixels, for calibrating and for checking: some to learn from, others held out."""

import random
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageOps
from pyarrow import csv
from tqdm import tqdm
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from contract import Pixels
from serving.errors import ArtefactError, SettingError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
LEAST, MOST = 20, 600  # pictures of which half are held out; NNCF's own default is 300 to calibrate with


@dataclass(frozen=True)
class Pictures:
    """Pixels of pictures that were drawn by lot, in two parts without a picture in common."""

    calibration: Pixels  # [N, S, S, 3]
    held_out: Pixels  # [M, S, S, 3]


def read_pictures(location: str, image_root: str, size: int, *, exif_orientation: bool, threads: int) -> Pictures:
    """Read up to 600 of the pictures at `location`; raises SettingError or ArtefactError when they are too few."""
    paths = list(dict.fromkeys(_list_pictures(Path(location), image_root)))
    chosen = random.Random(0).sample(paths, min(MOST, len(paths)))  # noqa: S311  # the same ones each time
    reader = _Reader(size, exif_orientation)
    with ThreadPoolExecutor(threads) as pool:
        read = list(tqdm(pool.map(reader.read, chosen), "pictures", len(chosen), leave=False, unit="", disable=None))
    pixels = [one for one in read if one is not None]
    if len(pixels) < len(chosen):
        print(f"{len(chosen) - len(pixels)} of {len(chosen)} pictures cannot be read", file=sys.stderr)  # noqa: T201
    if len(pixels) < LEAST:
        raise ArtefactError(f"--calibration: {location} has {len(pixels)} usable pictures; at least {LEAST} are needed")
    half = len(pixels) // 2
    return Pictures(np.stack(pixels[:half]), np.stack(pixels[half:]))


class _Reader:
    """What Hugging Face's processor makes of a picture before it normalises: what is served, but for some rounding."""

    def __init__(self, size: int, exif_orientation: bool) -> None:
        crop = {"height": size, "width": size}
        self._processor: Any = CLIPImageProcessorPil(
            size={"shortest_edge": size}, crop_size=crop, do_rescale=False, do_normalize=False
        )
        self._exif_orientation = exif_orientation

    def read(self, path: Path) -> Pixels | None:
        """[S, S, 3]; None when the file is no picture."""
        try:
            with Image.open(path) as file:
                picture = ImageOps.exif_transpose(file) if self._exif_orientation else file
                plain = Image.fromarray(np.asarray(picture.convert("RGB")))
        except Exception:  # codecs raise anything for a damaged picture
            return None
        pixels: Pixels = self._processor(images=plain, return_tensors="np")["pixel_values"][0]
        return pixels.transpose(1, 2, 0)


def _list_pictures(place: Path, image_root: str) -> list[Path]:
    """A folder of pictures at any depth, or a list of them: .parquet, .csv, or an index's folder of parts."""
    if place.is_dir() and not any(place.glob("*.parquet")):
        if image_root:
            raise SettingError("--image_root goes with a Parquet or CSV file as --calibration")
        return sorted(_walk(place))
    if not place.exists():
        raise SettingError(f"--calibration: {str(place)!r} does not exist")
    if not image_root and place.is_dir():
        raise SettingError("--calibration: name the folder of the index's pictures with --image_root")
    root = Path(image_root) if image_root else place.parent
    return [root / path for path in _read_paths(place)]


def _walk(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix.lower() in SUFFIXES and path.is_file() and not hidden:
            yield path


def _read_paths(place: Path) -> list[str]:
    try:
        table = csv.read_csv(place) if ".csv" in place.suffixes[-2:] else pq.read_table(place, columns=["path"])
        paths = [path for path in table.column("path").cast(pa.string()).to_pylist() if path]
    except (pa.ArrowException, OSError, KeyError) as error:
        raise ArtefactError(
            f"--calibration: {place} cannot be read as a list with the column path: {' '.join(str(error).split())}"
        ) from None
    if not paths:
        raise ArtefactError(f"--calibration: {place} names no files in its column path; urls must be downloaded first")
    return paths
