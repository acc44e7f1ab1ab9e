"""How many bytes a picture's decode takes at the most, told from its header."""

from PIL import Image, TiffImagePlugin

from transformer.bombs import find_scan

# Bytes that a pixel takes at the most, measured in Pillow 13; those of libjpeg for a picture in several scans are of
# all its pixels, whatever it is decoded at. A test measures them again.
_RGB, _CONVERTED, _WEBP, _TURNED, _COEFFICIENT = 5, 9, 17, 4, 2
_TIFF = _RGB + _TURNED  # Pillow itself turns a TIFF, before it is converted


def is_in_scans(image: Image.Image, data: bytes) -> bool:
    """Whether it is a JPEG that libjpeg has to hold all coefficients of: a progressive one, or one band by band."""
    if image.format not in ("JPEG", "MPO"):
        return False
    scan, _ = find_scan(data)
    return "progressive" in image.info or data[scan + 4 : scan + 5] != bytes([len(image.getbands())])


def bytes_needed(image: Image.Image, whole: tuple[int, int], in_scans: bool, turned: bool) -> int:
    """For a picture of the size `whole`, which may be drafted smaller by now, and may be `turned` afterwards."""
    pixels = image.width * image.height
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return pixels * _TIFF + _piece_of_tiff(image)
    taken = _WEBP if image.format == "WEBP" else _RGB if image.mode == "RGB" else _CONVERTED
    coefficients = _COEFFICIENT * whole[0] * whole[1] * len(image.getbands()) if in_scans else 0
    return pixels * (taken + (_TURNED if turned else 0)) + coefficients


def _piece_of_tiff(image: TiffImagePlugin.TiffImageFile) -> int:
    """The largest strip or tile, of which libtiff has one as a whole."""
    compression, tags = image.info["compression"], image.tag_v2
    if compression == "raw":
        return 0
    rows = tags.get(TiffImagePlugin.ROWSPERSTRIP, image.height)
    strip = min(image.width * image.height, max(image.size) * rows)  # the size may be turned already
    tile = tags.get(TiffImagePlugin.TILEWIDTH, 0) * tags.get(TiffImagePlugin.TILELENGTH, 0)
    bits = max(tags.get(TiffImagePlugin.BITSPERSAMPLE, (1,))) * tags.get(TiffImagePlugin.SAMPLESPERPIXEL, 1)
    coefficients = _COEFFICIENT if "jpeg" in compression else 0
    return int(max(strip, tile) * (1 + coefficients) * bits // 8)
