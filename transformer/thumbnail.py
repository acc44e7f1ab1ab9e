"""A picture's bytes to a small JPEG, for people to look at."""

import io
import math

from PIL import Image

from transformer.decode import draft, find_turn, opened

_QUALITY = 85
_DRAFT = 2  # times `size`


def make_thumbnail(data: bytes, size: int, max_pixels: int, room: float = math.inf) -> bytes:
    """A JPEG within `size` x `size`, turned as EXIF says and without the EXIF data (which may say where it was taken).

    Raises InvalidRequest for what cannot be decoded, TooLarge for more than `max_pixels`, and MemoryNeeded, before it
    begins, for what takes more than `room` bytes.
    """
    with opened(data, max_pixels) as image:
        draft(image, data, _DRAFT * size, False, room)
        turn = find_turn(image)
        small = image if image.mode == "RGB" else image.convert("RGB")
        small.thumbnail((size, size), Image.Resampling.LANCZOS)
        if turn is not None:
            small = small.transpose(turn)
        buffer = io.BytesIO()
        small.save(buffer, "JPEG", quality=_QUALITY)
        return buffer.getvalue()
