"""The largest picture, for every way in which one comes."""

from dataclasses import dataclass

MAX_BYTES = 20_000_000
MAX_PIXELS = 50_000_000


@dataclass(frozen=True)
class PictureLimits:
    """The largest picture."""

    max_bytes: int = MAX_BYTES
    max_pixels: int = MAX_PIXELS
