"""Bicubic resampling of a part of a picture: by fast_image_resize's vector instructions, in an eighth of Pillow's time.

It rounds the filter's weights to 16 bits, Pillow to 22: of a photograph's values one in 200 differs by 1.
"""

import math
from typing import NamedTuple

from PIL import Image

try:
    from cykooz_resizer import CropBox, FilterType, ResizeAlg, ResizeOptions, Resizer
except ModuleNotFoundError:  # it has no wheels for Linux on ARM
    Resizer = None

_LONG = 4  # times the short side


class Box(NamedTuple):
    """A part of a picture, in pixels."""

    left: float
    top: float
    width: float
    height: float


def resample(image: Image.Image, size: tuple[int, int], box: Box) -> Image.Image:
    """What is in `box` of an RGB picture, to `size`; pixels around the box count where the filter reaches them."""
    if Resizer is None:
        return _resample_by_pillow(image, size, box)
    # A box that rounding has put a hair past the edge would be refused.
    width, height = min(box.width, image.width - box.left), min(box.height, image.height - box.top)
    cubic = ResizeAlg.convolution(FilterType.catmull_rom)  # with a = -0.5, as Pillow's
    result = Image.new("RGB", size)
    Resizer().resize_pil(image, result, ResizeOptions(cubic, crop_box=CropBox(box.left, box.top, width, height)))
    return result


def find_lines(start: float, length: float, to: int, most: int) -> tuple[int, int]:
    """The first and past the last of a picture's lines that count when `length` of them from `start` become `to`.

    The filter looks 2 lines to each side, of the picture when enlarging and of the result when reducing.
    """
    taps = 2 * max(length / to, 1.0)
    return max(0, math.floor(start - taps)), min(most, math.ceil(start + length + taps))


def _resample_by_pillow(image: Image.Image, size: tuple[int, int], box: Box) -> Image.Image:
    left, top, width, height = box
    if max(image.size) > _LONG * min(image.size):  # Pillow takes the box as float32, too coarse for what is far away
        columns, rows = find_lines(left, width, size[0], image.width), find_lines(top, height, size[1], image.height)
        image = image.crop((columns[0], rows[0], columns[1], rows[1]))
        left, top = left - columns[0], top - rows[0]
    right, bottom = min(left + width, image.width), min(top + height, image.height)
    return image.resize(size, Image.Resampling.BICUBIC, (left, top, right, bottom))
