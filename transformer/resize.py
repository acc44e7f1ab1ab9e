"""Resize a picture's short side and crop its centre, bit for bit as Hugging Face and Pillow do it."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from contract import Pixels

BICUBIC = Image.Resampling.BICUBIC

_LONG = 4  # times the short side: longer pictures are resized only where the crop is
_ONE = 1 << 22  # Pillow's weights are integers in units of 1 / 2^22


def resized(whole: tuple[int, int], size: int) -> tuple[int, int]:
    """The size after resizing: the short side is `size`, the long side is rounded down as Hugging Face does."""
    short = min(whole)
    return size * whole[0] // short, size * whole[1] // short


def resize_and_crop(image: Image.Image, size: int) -> Pixels:
    """An RGB picture to [size, size, 3]."""
    width, height = resized(image.size, size)
    if max(width, height) > _LONG * size:
        return _resize_long(image, size)
    left, top = (width - size) // 2, (height - size) // 2
    return np.array(image.resize((width, height), BICUBIC).crop((left, top, left + size, top + size)))


def _resize_long(image: Image.Image, size: int) -> Pixels:
    """The same for a long picture, in time and memory that do not grow with its length.

    `Image.resize(box=...)` would do, but it takes the box as float32 and so gives slightly other pixels. Pillow resizes
    one side at a time, with 8 bits in between; here it does the short side, and `_resize_lines` the long side. The
    order is Pillow's: the long side first, unless the picture is upright and grows.
    """
    upright = image.height > image.width
    short, long = sorted(image.size)
    starts, weights = _weights(long, resized(image.size, size)[upright], size)
    first, last = int(starts[0]), int(starts[-1]) + weights.shape[1]
    image = image.crop((0, first, short, last) if upright else (first, 0, last, short))
    if upright and short < size:
        image = image.resize((size, last - first), BICUBIC)
    lines = np.asarray(image) if upright else np.asarray(image).swapaxes(0, 1)  # [last - first, short, 3]
    lines = _resize_lines(lines, starts - first, weights)  # [size, short, 3]
    image = Image.fromarray(lines if upright else np.ascontiguousarray(lines.swapaxes(0, 1)))
    return np.array(image.resize((size, size), BICUBIC))


def _weights(long: int, long_resized: int, size: int) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """For each of the `size` lines in the centre of `long_resized`: where its source lines start, and their weights.

    [size] and [size, taps], the weights being whole numbers; the operations are those of `precompute_coeffs` and
    `normalize_coeffs_8bpc` in Pillow's Resample.c, in the same order.
    """
    scale = long / long_resized
    stretch = max(scale, 1.0)
    centres = ((long_resized - size) // 2 + np.arange(size) + 0.5) * scale
    starts = (centres - 2 * stretch + 0.5).astype(np.intp)
    taps = np.arange(int(4 * stretch) + 2)  # 2 source lines to each side when enlarging; past them the weight is 0
    x = np.abs((taps + starts[:, None] - centres[:, None] + 0.5) * (1 / stretch))
    near, far = ((1.5 * x) - 2.5) * x * x + 1, (((x - 5) * x + 8) * x - 4) * -0.5
    weights = np.where(x < 1, near, np.where(x < 2, far, 0.0))
    weights /= np.cumsum(weights, axis=1)[:, -1:]  # cumsum adds one by one, as Pillow does
    return starts, np.trunc(weights * _ONE + np.copysign(0.5, weights))


def _resize_lines(lines: Pixels, starts: NDArray[np.intp], weights: NDArray[np.float64]) -> Pixels:
    """Weighted sums of lines [n, m, 3] -> [size, m, 3]; in float64, where such sums of whole numbers are exact."""
    flat = np.ascontiguousarray(lines).reshape(len(lines), -1)
    result = np.empty((len(starts), flat.shape[1]), np.uint8)
    for i, start in enumerate(starts):
        sums = weights[i] @ flat[start : start + weights.shape[1]].astype(np.float64)
        result[i] = np.clip(np.floor(sums / _ONE + 0.5), 0, 255)
    return result.reshape(len(starts), *lines.shape[1:])
