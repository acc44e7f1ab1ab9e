"""`python -m benchmarks.decode`: a picture's bytes to pixels, against Hugging Face's processor and plain Pillow."""

import functools
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from benchmarks.rounds import (
    Rounds,
    describe_machine,
    median_of,
    ratio,
    show_machine,
    show_table,
    time_rounds,
    write_results,
)
from contract import Pixels
from serving.program import run_program
from serving.settings import at_least, load_settings, setting
from tests.pictures import draw, encode
from transformer.decode import decode

OURS, HUGGING_FACE, PILLOW = "ours", "Hugging Face", "plain Pillow"
PICTURES = (  # width, height, format
    (320, 240, "JPEG"),
    (500, 375, "JPEG"),
    (1280, 960, "JPEG"),
    (4000, 3000, "JPEG"),
    (1600, 90, "JPEG"),
    (500, 375, "PNG"),
    (500, 375, "WEBP"),
)


@dataclass(frozen=True)
class DecodeSettings:
    """Time three ways from a picture's bytes to the pixels that CLIP takes, and compare what they give."""

    size: int = setting(224, "side of the square that CLIP takes", parse=at_least(1))
    rounds: int = setting(9, "rounds, in each of which every way takes its turn", parse=at_least(1))


@dataclass(frozen=True)
class Figures:
    """Of one picture: seconds of every round, and how far our pixels are from Hugging Face's, of 255."""

    picture: str
    seconds: Rounds
    difference_mean: float
    difference_max: int


def main(argv: Sequence[str], environ: Mapping[str, str]) -> None:
    """Draw the pictures, time the ways, print and write the figures."""
    settings = load_settings(DecodeSettings, "python -m benchmarks.decode", "BENCH_", argv, environ)
    figures = [measure(*picture, settings) for picture in PICTURES]
    machine = describe_machine("pillow", "transformers", "numpy")
    file = write_results(
        "decode", {"settings": asdict(settings), "machine": machine, "pictures": [asdict(one) for one in figures]}
    )
    print(f"to {settings.size} x {settings.size} pixels, in one thread")
    print(f"{show_machine(machine)}\n\n{show(figures)}\n\nevery round: {file}")


def measure(width: int, height: int, format: str, settings: DecodeSettings) -> Figures:
    """All ways on one drawn picture."""
    data, name = encode(draw(width, height), format), f"{width} x {height} {format}"
    ways: dict[str, Callable[[], Pixels]] = {
        OURS: functools.partial(decode, data, settings.size, exif_orientation=True),
        HUGGING_FACE: functools.partial(by_hugging_face, _processor(settings.size), data),
        PILLOW: functools.partial(by_pillow, data, settings.size),
    }
    difference = np.abs(ways[OURS]().astype(np.int16) - ways[HUGGING_FACE]())
    seconds = time_rounds(ways, settings.rounds, name)
    return Figures(name, seconds, float(difference.mean()), int(difference.max()))


def _processor(size: int) -> Any:
    """Without the normalisation, which is the model's here: the same work for everyone."""
    crop = {"height": size, "width": size}
    return CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size=crop, do_rescale=False, do_normalize=False)


def by_hugging_face(processor: Any, data: bytes) -> Pixels:
    """As the tutorial does it: Pillow decodes, an array, the processor."""
    image = np.array(Image.open(io.BytesIO(data)).convert("RGB"))
    pixels: Pixels = processor(images=image, return_tensors="np")["pixel_values"][0]  # [3, S, S]
    return pixels.transpose(1, 2, 0)


def by_pillow(data: bytes, size: int) -> Pixels:
    """What one writes without a library: resize the short side, crop the centre."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    short = min(image.size)
    width, height = (size * side // short for side in image.size)
    left, top = (width - size) // 2, (height - size) // 2
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    return np.array(resized.crop((left, top, left + size, top + size)))


def show(figures: Sequence[Figures]) -> str:
    """The table for a person."""
    rows = [
        [
            one.picture,
            *(f"{median_of(one.seconds[name]) * 1e3:.1f} ms" for name in one.seconds),
            *(f"{ratio(one.seconds, name, OURS):.1f}" for name in (HUGGING_FACE, PILLOW)),
            f"{one.difference_mean:.2f} ({one.difference_max})",
        ]
        for one in figures
    ]
    head = ["picture", OURS, HUGGING_FACE, PILLOW, "HF / ours", "Pillow / ours", "off by (at most)"]
    return show_table(head, rows)


if __name__ == "__main__":
    run_program(main)
