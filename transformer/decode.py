"""A picture's bytes to the pixels that CLIP's image processor makes of them, before it normalises."""

import io
import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from contract import Pixels
from serving.errors import InvalidRequest, ServiceError, TooLarge
from transformer.bombs import Pieces, refuse_bombs
from transformer.decode_cost import bytes_needed, is_in_scans
from transformer.limits import MAX_PIXELS
from transformer.resample import Box
from transformer.resize import resize_and_crop, resize_box, resized

# Named one by one, because Pillow would otherwise import every plugin it has at the first picture. MPO is in JPEG's.
_FORMATS = tuple(
    plugin.format
    for plugin in (
        JpegImagePlugin.JpegImageFile,
        PngImagePlugin.PngImageFile,
        WebPImagePlugin.WebPImageFile,
        GifImagePlugin.GifImageFile,
        BmpImagePlugin.BmpImageFile,
        TiffImagePlugin.TiffImageFile,
    )
)

_TURNS = {  # EXIF orientation -> what undoes it
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION = 0x0112

_SMALL_TILE = 2**22  # pixels; libtiff makes room for a whole tile
_SMALL_BMP = 2**20  # pixels; Pillow decodes runs in Python, some byte by byte
_RUN_LENGTHS = (1, 2)
# libtiff prints a line for each damaged row of a fax, of which there can be millions.
_FAX = ("tiff_ccitt", "group3", "group4", "tiff_raw_16")
_DRAFT = 3  # times `size`: on photographs 0.2 of 255 off on average; 2 would be 0.2 to 0.9, and up to 11 at most

# Pillow warns of damaged pictures and logs them as errors; a filter around one call would not be thread-safe.
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").setLevel(logging.CRITICAL)


class MemoryNeeded(ServiceError):
    """The picture is not decoded in the room that was given."""

    def __init__(self, amount: int) -> None:
        super().__init__(f"decoding the picture takes {amount} bytes")
        self.amount = amount


def decode(
    data: bytes, size: int, *, exif_orientation: bool, max_pixels: int = MAX_PIXELS, room: float = math.inf
) -> Pixels:
    """Decode, turn, convert to RGB, resize the short side to `size` (bicubic) and crop the centre.

    Returns [size, size, 3] uint8: what Hugging Face's CLIPImageProcessorPil makes of Pillow's RGB picture, but that one
    in 200 of a photograph's values differs by 1, and none by more than 2; and that a JPEG is decoded at 1/2, 1/4 or 1/8
    where that leaves its short side at least 3 x `size`.
    Raises InvalidRequest for what cannot be decoded, TooLarge for more than `max_pixels`, and MemoryNeeded, before
    it begins, for what takes more than `room` bytes.
    """
    with opened(data, max_pixels) as image:
        return _prepare(image, data, size, exif_orientation, room)


@contextmanager
def opened(data: bytes, max_pixels: int) -> Iterator[Image.Image]:
    """The picture with only its header read; whatever a codec raises in the block becomes a sentence for the caller."""
    if not data:
        raise InvalidRequest("the picture is empty: it has 0 bytes")
    refuse_bombs(data)
    try:
        yield _open(data, max_pixels)
    except ServiceError:
        raise
    except UnidentifiedImageError:
        raise InvalidRequest(
            "the picture is not a JPEG, PNG, WebP, GIF, BMP or TIFF, or its start is damaged"
        ) from None
    except Image.DecompressionBombError:  # Pillow's own limit, or a first frame larger than its canvas
        raise _too_large(max_pixels) from None
    except Exception:  # codecs raise anything for a damaged picture
        raise InvalidRequest("the picture cannot be decoded: it is damaged or cut short") from None


def _too_large(max_pixels: int) -> TooLarge:
    return TooLarge(f"the picture has more than {max_pixels} pixels; send a smaller one")


def _open(data: bytes, max_pixels: int) -> Image.Image:
    """Read the header only."""
    file = io.BytesIO(data) if data.startswith(b"BM") else Pieces(data)  # runs of a BMP are read one by one
    image = Image.open(file, formats=_FORMATS)
    pixels = image.width * image.height
    if pixels > max_pixels:
        raise _too_large(max_pixels)
    _refuse_slow(image)
    return image


def _refuse_slow(image: Image.Image) -> None:
    """Raise InvalidRequest for rare kinds whose decoders take, or log, far more than the file's bytes account for."""
    pixels = image.width * image.height
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        tile = image.tag_v2.get(TiffImagePlugin.TILEWIDTH, 0) * image.tag_v2.get(TiffImagePlugin.TILELENGTH, 0)
        if tile > max(2 * pixels, _SMALL_TILE):
            raise InvalidRequest("the TIFF has tiles larger than its picture; save it again with another program")
        if image.info["compression"] in _FAX:
            raise InvalidRequest("the TIFF is compressed as a fax; save it again with another compression")
    if image.format == "BMP" and image.info["compression"] in _RUN_LENGTHS and pixels > _SMALL_BMP:
        raise InvalidRequest("the BMP is run-length encoded and large; save it again without compression")


def draft(
    image: Image.Image, data: bytes, side: int, turned: bool, room: float
) -> tuple[float, float, float, float] | None:
    """Have a JPEG decoded at 1/2, 1/4 or 1/8 if that leaves it at least `side` wide and high: the box of the picture.

    Raises MemoryNeeded for what takes more than `room` bytes, if all of it is also `turned`.
    """
    whole = image.size
    drafted = image.draft(None, (side, side))  # does nothing unless it is a JPEG
    amount = bytes_needed(image, whole, is_in_scans(image, data), turned)
    if amount > room:
        raise MemoryNeeded(amount)
    return drafted[1] if drafted else None


def _prepare(image: Image.Image, data: bytes, size: int, exif_orientation: bool, room: float) -> Pixels:
    whole = image.size
    box = draft(image, data, _DRAFT * size, exif_orientation, room)
    image.load()
    turn = find_turn(image) if exif_orientation else None
    if image.mode != "RGB":
        image = image.convert("RGB")
    if box and image.size != whole:
        # The last column and row of a draft are only partly picture, as the box says. Turned when it is small.
        image = resize_box(image, resized(whole, size), Box(0, 0, *box[2:]))
    if turn is not None:
        image = image.transpose(turn)
    return resize_and_crop(image, size)


def find_turn(image: Image.Image) -> Image.Transpose | None:
    """What undoes the turn that the picture's EXIF data speak of."""
    try:
        return _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged EXIF says nothing about an intact picture
        return None
