"""Resize a picture's short side and crop its centre, as Hugging Face does; values differ from Pillow's by at most 2."""

import numpy as np
from PIL import Image

from contract import Pixels
from transformer.resample import Box, find_lines, resample


def resized(whole: tuple[int, int], size: int) -> tuple[int, int]:
    """The size after resizing: the short side is `size`, the long side is rounded down as Hugging Face does."""
    short = min(whole)
    return size * whole[0] // short, size * whole[1] // short


def resize_and_crop(image: Image.Image, size: int) -> Pixels:
    """An RGB picture to [size, size, 3], in time and memory that do not grow with the length of a long one."""
    width, height = resized(image.size, size)
    across, down = image.width / width, image.height / height  # pixels of the picture for one of the result
    box = Box((width - size) // 2 * across, (height - size) // 2 * down, size * across, size * down)
    return np.array(resize_box(image, (size, size), box))


def resize_box(image: Image.Image, size: tuple[int, int], box: Box) -> Image.Image:
    """What is in `box` of an RGB picture, to `size`: one side after the other, with 8 bits in between, as Pillow."""
    if _is_vertical_first(image, size, box):
        image = resample(image, (image.width, size[1]), Box(0, box.top, image.width, box.height))
        return resample(image, size, Box(box.left, 0, box.width, size[1]))
    first, last = find_lines(box.top, box.height, size[1], image.height)
    image = resample(image, (size[0], last - first), Box(box.left, first, box.width, last - first))
    return resample(image, size, Box(0, box.top - first, size[0], box.height))


def _is_vertical_first(image: Image.Image, size: tuple[int, int], box: Box) -> bool:
    """Whether Pillow 13 would do columns before rows when it resizes all of the picture."""
    narrower = image.width - round(image.width * size[0] / box.width)
    lower = image.height - round(image.height * size[1] / box.height)
    return lower > max(0, 2 * narrower)
