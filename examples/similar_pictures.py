"""`python -m examples.similar_pictures`: ask about one picture, without servers, and draw the answer as one sheet."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from PIL import Image, ImageOps

from local import Answer, Doggos
from serving.errors import ArtefactError, SettingError
from serving.program import run_program
from serving.settings import at_least, load_settings, setting

COLUMNS, BARS = 5, 8
INK, FAINT = "#222222", "#8a8a8a"

Colours = Mapping[str, tuple[float, ...]]


@dataclass(frozen=True)
class SheetSettings:
    """Ask about a picture, and draw it with its most probable classes and the pictures that look like it."""

    picture: str = setting("", "the picture to ask about", positional=True)
    model_dir: str = setting("", "folder with clip/ and head/, as the predictor takes it")
    index_dir: str = setting("", "folder of the embeddings, as the transformer takes it")
    images: str = setting("", "folder that was embedded")
    output: str = setting("sheet.png", "file to draw into; its ending decides the format")
    k: int = setting(4, "how many of the most probable classes to search in", parse=at_least(1))
    n: int = setting(5, "how many similar pictures to show", parse=at_least(1))

    def __post_init__(self) -> None:
        for flag in ("model_dir", "index_dir", "images"):
            if not Path(getattr(self, flag) or "-").is_dir():
                raise SettingError(f"--{flag}: {getattr(self, flag)!r} is not a folder")
        if not Path(self.picture).is_file():
            raise SettingError(f"PICTURE: {self.picture!r} is not a file")


def main(argv: Sequence[str], environ: Mapping[str, str]) -> None:
    """Ask, draw, save."""
    settings = load_settings(SheetSettings, "python -m examples.similar_pictures", "SHEET_", argv, environ)
    dogs = Doggos(model_dir=settings.model_dir, index_dir=settings.index_dir)
    answer = dogs.ask(settings.picture, k=settings.k, n=settings.n)
    draw_sheet(Path(settings.picture), answer, Path(settings.images), settings.k).savefig(settings.output, dpi=120)
    print(f"{settings.output}: {len(answer.matches)} similar pictures")  # noqa: T201


def draw_sheet(asked: Path, answer: Answer, images: Path, k: int) -> Figure:
    """The picture and bars of the most probable classes above, the matches below; one colour for each class."""
    best = sorted(answer.probabilities.items(), key=lambda item: -item[1])[: min(k, BARS)]
    colours = {label: colormaps["tab10"](position) for position, (label, _) in enumerate(best)}
    rows = math.ceil(len(answer.matches) / COLUMNS)
    heights = [3.4, 2.9 * rows] if rows else [3.4]
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1)  # inches
    figure = Figure(figsize=(11, sum(heights)), layout=layout, facecolor="white")
    parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    picture, bars = parts[0].subplots(1, 2, width_ratios=[3, 7])
    _draw_picture(picture, asked)
    picture.set_anchor("NW")
    picture.set_title("asked about", loc="left", color=FAINT, fontsize=11)
    _draw_bars(bars, best, colours)
    if rows:
        _draw_matches(parts[1], rows, answer, images, colours)
    return figure


def _draw_bars(axes: Axes, best: Sequence[tuple[str, float]], colours: Colours) -> None:
    places = range(len(best))
    bars = axes.barh(places, [p for _, p in best], color=[colours[label] for label, _ in best], height=0.6)
    axes.bar_label(bars, [f"{p:.1%}" for _, p in best], padding=6, color=INK, fontsize=11)
    axes.set_yticks(places, [_readable(label) for label, _ in best], color=INK, fontsize=12)
    axes.set_xlim(0, 1.12)  # leaves room for the number after a full bar
    axes.set_ylim(len(best) - 0.4, -0.6)
    axes.set_title("most probable classes", loc="left", color=FAINT, fontsize=11)
    axes.tick_params(length=0)
    axes.set_xticks([])
    axes.spines[:].set_visible(False)


def _draw_matches(part: SubFigure, rows: int, answer: Answer, images: Path, colours: Colours) -> None:
    part.suptitle("most similar pictures of these classes", color=FAINT, fontsize=11, x=0.01, ha="left")
    grid = part.subplots(rows, COLUMNS, squeeze=False).ravel()
    for axes in grid[len(answer.matches) :]:
        axes.set_axis_off()
    for axes, match in zip(grid, answer.matches, strict=False):
        _draw_picture(axes, images / match.path)
        axes.set_title(_readable(match.label), color=colours.get(match.label, INK), fontsize=11, fontweight="bold")
        axes.set_xlabel(f"similarity {match.similarity:.3f}", color=INK, fontsize=10)


def _draw_picture(axes: Axes, path: Path) -> None:
    """The middle of a picture as a square, as the model sees it."""
    try:
        with Image.open(path) as image:
            axes.imshow(ImageOps.fit(ImageOps.exif_transpose(image).convert("RGB"), (320, 320)))
    except OSError:
        raise ArtefactError(f"{path} cannot be shown; --images must be the folder that was embedded") from None
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def _readable(label: str) -> str:
    return label.replace("_", " ")


if __name__ == "__main__":
    run_program(main)
