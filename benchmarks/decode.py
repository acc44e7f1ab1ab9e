"""`python -m benchmarks.decode`: a picture's bytes to pixels, against Hugging Face's processor and plain Pillow."""

import functools
import io
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from benchmarks.workload import QUALITY, draw_photograph, make_workload
from contract import Floats, Pixels
from local import load_engine
from predictor.settings import PredictorSettings
from serving.program import run_program
from serving.settings import at_least, load_settings, setting
from transformer.decode import decode

SIZE = 224  # of the side of what CLIP takes
WAYS = OURS, HUGGING_FACE, PILLOW, DRAFTED = "ours", "Hugging Face", "plain Pillow", "Pillow, drafted"
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
    """Time four ways from a picture's bytes to the pixels that CLIP takes, and compare what they give."""

    rounds: int = setting(9, "rounds, in each of which every way takes its turn", parse=at_least(1))


@dataclass(frozen=True)
class Figures:
    """Of one picture: seconds of every round, and how far our pixels are from Hugging Face's, of 255.

    `moved` is how far its embedding is, of the median distance between two of the pictures.
    """

    picture: str
    seconds: Rounds
    difference_mean: float
    difference_max: int
    moved: float


def main(argv: Sequence[str], environ: Mapping[str, str]) -> None:
    """Draw the pictures, time the ways, print and write the figures."""
    settings = load_settings(DecodeSettings, "python -m benchmarks.decode", "BENCH_", argv, environ)
    figures = list(measure(settings.rounds))
    machine = describe_machine("pillow", "transformers", "numpy")
    file = write_results(
        "decode", {"settings": asdict(settings), "machine": machine, "pictures": [asdict(one) for one in figures]}
    )
    print(f"to {SIZE} x {SIZE} pixels, in one thread")
    print(f"{show_machine(machine)}\n\n{show(figures)}\n\nevery round: {file}")


def measure(rounds: int) -> Iterator[Figures]:
    """All ways on every picture, each drawn otherwise."""
    processor, names = _processor(), [f"{width} x {height} {format}" for width, height, format in PICTURES]
    files = [
        _encode(draw_photograph(width, height, seed), format) for seed, (width, height, format) in enumerate(PICTURES)
    ]
    ours = np.stack([decode(data, SIZE, exif_orientation=True) for data in files])
    theirs = np.stack([by_hugging_face(processor, data) for data in files])
    engine = load_engine(PredictorSettings(model_dir=str(make_workload(()).model), engine="torch", device="cpu"))
    moved = measure_moves(engine.predict(ours).embedding, engine.predict(theirs).embedding)
    for name, data, errors, distance in zip(names, files, np.abs(ours.astype(int) - theirs), moved, strict=True):
        seconds = time_ways(name, data, processor, rounds)
        yield Figures(name, seconds, float(errors.mean()), int(errors.max()), distance)


def _encode(pixels: Pixels, format: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format, quality=QUALITY)
    return file.getvalue()


def measure_moves(ours: Floats, theirs: Floats) -> list[float]:
    """How far each embedding [P, D] is from the other one of its picture, of the median distance between pictures."""
    median = np.median([np.linalg.norm(one - other) for one, other in itertools.combinations(theirs, 2)])
    return [float(distance / median) for distance in np.linalg.norm(ours - theirs, axis=1)]


def time_ways(name: str, data: bytes, processor: Any, rounds: int) -> Rounds:
    """All ways on one drawn picture."""
    ways: dict[str, Callable[[], Pixels]] = {
        OURS: functools.partial(decode, data, SIZE, exif_orientation=True),
        HUGGING_FACE: functools.partial(by_hugging_face, processor, data),
        PILLOW: functools.partial(by_pillow, data, drafted=False),
        DRAFTED: functools.partial(by_pillow, data, drafted=True),
    }
    return time_rounds(ways, rounds, name)


def _processor() -> Any:
    """Without the normalisation, which is the model's here: the same work for everyone."""
    crop = {"height": SIZE, "width": SIZE}
    return CLIPImageProcessorPil(size={"shortest_edge": SIZE}, crop_size=crop, do_rescale=False, do_normalize=False)


def by_hugging_face(processor: Any, data: bytes) -> Pixels:
    """As the tutorial does it: Pillow decodes, an array, the processor."""
    image = np.array(Image.open(io.BytesIO(data)).convert("RGB"))
    pixels: Pixels = processor(images=image, return_tensors="np")["pixel_values"][0]  # [3, S, S]
    return pixels.transpose(1, 2, 0)


def by_pillow(data: bytes, *, drafted: bool) -> Pixels:
    """What one writes without a library: resize and crop; `drafted`, a large JPEG is decoded smaller."""
    image = Image.open(io.BytesIO(data))
    if drafted:
        image.draft(None, (3 * SIZE, 3 * SIZE))  # as ours
    short = min(image.size)
    width, height = (SIZE * side // short for side in image.size)
    left, top = (width - SIZE) // 2, (height - SIZE) // 2
    resized = image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    return np.array(resized.crop((left, top, left + SIZE, top + SIZE)))


def show(figures: Sequence[Figures]) -> str:
    """The table for a person."""
    rows = [
        [
            one.picture,
            *(f"{median_of(one.seconds[name]) * 1e3:.1f} ms" for name in one.seconds),
            *(f"{ratio(one.seconds, name, OURS):.1f}" for name in WAYS[1:]),
            f"{one.difference_mean:.3f} ({one.difference_max})",
            f"{one.moved:.2%}",
        ]
        for one in figures
    ]
    head = ["picture", *WAYS, *(f"{way} / ours" for way in WAYS[1:]), "off by (at most)", "moved"]
    return show_table(head, rows)


if __name__ == "__main__":
    run_program(main)
