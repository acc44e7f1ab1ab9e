"""Builders of test pictures: drawn ones, and odd, damaged and hostile files."""

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

ORIENTATION = 0x0112


def draw(width: int, height: int, seed: int = 0) -> Image.Image:
    """An RGB picture with areas, edges, lines and a little noise; no two corners are alike."""
    random = np.random.default_rng(seed)
    array = np.empty((height, width, 3), np.uint8)
    array[:, :, 0], array[:, :, 1] = np.linspace(0, 255, width)[None, :], np.linspace(0, 255, height)[:, None]
    array[:, :, 2] = array[:, :, 0] // 2 + array[:, :, 1] // 2
    image = Image.fromarray(array)
    pen = ImageDraw.Draw(image)
    for _ in range(40):
        left, top, right, bottom = random.uniform(-0.2, 1.2, 4) * (width, height, width, height)
        box = (min(left, right), min(top, bottom), max(left, right) + 1, max(top, bottom) + 1)
        colour = tuple(int(c) for c in random.integers(0, 256, 3))
        pen.ellipse(box, fill=colour) if random.random() < 0.5 else pen.line(box, fill=colour, width=1 + width // 200)
    noise = random.integers(-6, 7, (height, width, 3), dtype=np.int8)
    return Image.fromarray(np.clip(np.asarray(image).astype(np.int16) + noise, 0, 255).astype(np.uint8))


def draw_noise(width: int, height: int, seed: int = 0) -> Image.Image:
    """Every value by chance: the hardest picture to resize exactly."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def encode(image: Image.Image, format: str, **options: Any) -> bytes:
    """Save to bytes."""
    buffer = io.BytesIO()
    image.copy().save(buffer, format, **options)  # a copy, because saving leaves traces in an image
    return buffer.getvalue()


def turned(image: Image.Image, format: str, orientation: int, **options: Any) -> bytes:
    """Saved with an EXIF orientation; the pixels stay as they are."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return encode(image, format, exif=exif, **options)


def odd_pictures(width: int = 91, height: int = 70) -> dict[str, bytes]:
    """One file of every format and mode that differs in how it is decoded."""
    rgb, other = draw(width, height), draw(width, height, seed=1)
    alpha = draw(width, height, seed=2).convert("L")
    rgba, la, palette = rgb.copy(), rgb.convert("LA"), rgb.quantize(64)
    rgba.putalpha(alpha)
    la.putalpha(alpha)
    deep = (np.asarray(rgb.convert("L")).astype(np.uint16) - 20) * 40  # wraps, so that most values are above 255
    small_frame = other.resize((width // 2, height // 2))
    return {
        "rgb.jpg": encode(rgb, "JPEG"),
        "444.jpg": encode(rgb, "JPEG", quality=95, subsampling=0),
        "progressive.jpg": encode(rgb, "JPEG", progressive=True),
        "grey.jpg": encode(rgb.convert("L"), "JPEG"),
        "cmyk.jpg": encode(rgb.convert("CMYK"), "JPEG"),
        "two.mpo": encode(rgb, "MPO", save_all=True, append_images=[other.copy()]),
        "rgb.png": encode(rgb, "PNG"),
        "rgba.png": encode(rgba, "PNG"),
        "grey.png": encode(rgb.convert("L"), "PNG"),
        "la.png": encode(la, "PNG"),
        "one bit.png": encode(rgb.convert("1"), "PNG"),
        "palette.png": encode(palette, "PNG"),
        "palette, one clear.png": encode(palette, "PNG", transparency=3),
        "palette, half clear.png": encode(palette, "PNG", transparency=bytes(range(0, 256, 4))),
        "rgb, one clear.png": encode(rgb, "PNG", transparency=rgb.getpixel((5, 5))),
        "grey, one clear.png": encode(rgb.convert("L"), "PNG", transparency=100),
        "16 bit grey.png": encode(Image.fromarray(deep), "PNG"),
        "16 bit rgb.png": png(width, height, 16, 2, np.asarray(rgb).astype(">u2") * 251),
        "16 bit rgba.png": png(width, height, 16, 6, np.asarray(rgba).astype(">u2") * 251),
        "moving.png": encode(rgb, "PNG", save_all=True, append_images=[other.copy()]),
        "rgb.webp": encode(rgb, "WEBP"),
        "lossless, alpha.webp": encode(rgba, "WEBP", lossless=True),
        "moving.webp": encode(rgb, "WEBP", save_all=True, append_images=[other.copy()]),
        "palette.gif": encode(palette, "GIF"),
        "interlaced.gif": encode(palette, "GIF", interlace=1),
        "clear.gif": encode(palette, "GIF", transparency=5),
        "grey.gif": encode(rgb.convert("L"), "GIF"),
        "moving.gif": encode(palette, "GIF", save_all=True, append_images=[other.quantize(64)]),
        "frame beyond its canvas.gif": widen_gif(encode(small_frame.quantize(64), "GIF"), 7, 9),
        "rgb.bmp": encode(rgb, "BMP"),
        "palette.bmp": encode(palette, "BMP"),
        "one bit.bmp": encode(rgb.convert("1"), "BMP"),
        "run lengths.bmp": rle_bmp(8, 6, b"\x08\x05\x00\x00" * 6 + b"\x00\x01"),
        "rgb.tif": encode(rgb, "TIFF"),
        "lzw.tif": encode(rgb, "TIFF", compression="tiff_lzw"),
        "deflate, alpha.tif": encode(rgba, "TIFF", compression="tiff_adobe_deflate"),
        "jpeg.tif": encode(rgb, "TIFF", compression="jpeg"),
        "cmyk.tif": encode(rgb.convert("CMYK"), "TIFF"),
        "16 bit.tif": encode(Image.fromarray(deep), "TIFF"),
        "float.tif": encode(rgb.convert("F"), "TIFF"),
        "two pages.tif": encode(rgb, "TIFF", save_all=True, append_images=[other.copy()]),
    }


def hostile_files() -> dict[str, bytes]:
    """Small files that would take far more memory or time, or log far more, than their bytes account for."""
    small = draw(20, 20)
    jpeg = encode(small, "JPEG", progressive=True)
    last = jpeg.rfind(b"\xff\xc4", 0, jpeg.rfind(b"\xff\xda"))  # tables and data of the last scan
    exif = b"\xff\xe1" + struct.pack(">H", 9) + b"Exif\0\0x"
    inflating = zlib.compress(bytes(1_000_000), 9)
    profile, text = chunk(b"iCCP", b"x\0\0" + inflating), chunk(b"zTXt", b"k\0\0" + inflating)
    wide = chunk(b"iTXt", b"k\0\1\0\0\0" + zlib.compress("\U0001f436".ljust(1_000_000).encode(), 9))
    rgb, whole = bytes(20 * 20 * 3), png(20, 20, 8, 2, np.asarray(small))
    strips = np.arange(4_000_000, dtype="<u4").tobytes()
    fax = bytes(range(256)) * 40
    return {
        "100 megapixels.jpg": resize_jpeg(jpeg, 10_000, 10_000),
        "4 gigapixels.jpg": resize_jpeg(jpeg, 65_500, 65_500),
        "10000 scans.jpg": jpeg[:-2] + jpeg[last:-2] * 10_000 + jpeg[-2:],
        "a million pieces of EXIF.jpg": jpeg[:2] + exif * 1_000_000 + jpeg[2:],
        "a head of filling.jpg": jpeg[:2] + b"\xff" * 5_000_000 + jpeg[2:],
        "a million empty comments.jpg": jpeg[:2] + b"\xff\xfe\0\2" * 1_000_000 + jpeg[2:],
        "100 megapixels.png": png(10_000, 10_000, 8, 2, rgb),
        "4 gigapixels.png": png(65_535, 65_535, 8, 2, rgb),
        "texts that inflate.png": png(20, 20, 8, 2, np.asarray(small), text * 200),
        "one text that inflates.png": png(
            20, 20, 8, 2, np.asarray(small), chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(50_000_000), 9))
        ),
        "wide letters that inflate.png": png(20, 20, 8, 2, np.asarray(small), wide * 60),
        "profiles that inflate.png": png(20, 20, 8, 2, np.asarray(small), profile * 500),
        "a million empty chunks.png": png(20, 20, 8, 2, np.asarray(small), chunk(b"aaAa", b"") * 1_000_000),
        "a million empty chunks behind.png": whole[:-12] + chunk(b"IDAT", b"") * 1_000_000,
        "a million comments.gif": extend_gif(encode(small.quantize(4), "GIF"), b"!\xfe\1x\0" * 1_000_000),
        "millions of bytes between.gif": extend_gif(encode(small.quantize(4), "GIF"), bytes(5_000_000)),
        "256 megapixels.webp": webp_canvas(encode(small, "WEBP"), 16_000, 16_000),
        "2 terapixels.webp": webp_canvas(encode(small, "WEBP"), 2**24, 2**17),
        "a frame of 4 gigapixels.gif": widen_gif(encode(small.quantize(4), "GIF"), 20, 20, 65_535, 65_535),
        "100 megapixels.bmp": rle_bmp(10_000, 10_000, b"\x00\x00" * 10_000),
        "40 megapixels of run lengths.bmp": rle_bmp(40_000, 1_000, b"\x01\x01\x00\x00" * 1_000),
        "100 megapixels.tif": tiff({256: (4, 10_000), 257: (4, 10_000)}, rgb),
        "4 million strips.tif": tiff({256: (4, 20), 257: (4, 20), 273: (4, 4_000_000), 278: (4, 1)}, strips),
        "8 million values of EXIF.tif": tiff_with_exif(8_000_000),
        "44 samples.tif": tiff({256: (4, 20), 257: (4, 20), 277: (3, 44)}, rgb),
        "a tile of 3 gigapixels.tif": tiff(
            {256: (4, 20), 257: (4, 20), 259: (3, 8), 322: (4, 56_000), 323: (4, 56_000)}, inflating
        ),
        "millions of damaged fax rows.tif": tiff(
            {256: (4, 8), 257: (4, 5_000_000), 258: (3, 1), 259: (3, 3), 278: (4, 5_000_000)}, fax
        ),
    }


def chunk(name: bytes, data: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">L", len(data)) + name + data + struct.pack(">L", zlib.crc32(name + data))


def png(width: int, height: int, bits: int, colour: int, pixels: Any, chunks: bytes = b"") -> bytes:
    """A PNG of any depth, of `pixels` (bytes or an array), with `chunks` before them."""
    data = pixels if isinstance(pixels, bytes) else pixels.tobytes()
    stride = len(data) // height if not isinstance(pixels, bytes) else len(data)
    rows = b"".join(b"\0" + data[i : i + stride] for i in range(0, len(data), stride))
    header = chunk(b"IHDR", struct.pack(">LLBBBBB", width, height, bits, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunks + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def resize_jpeg(jpeg: bytes, width: int, height: int) -> bytes:
    """The same file, whose header lies about the size."""
    frame = max(jpeg.find(b"\xff\xc0"), jpeg.find(b"\xff\xc2"))
    return jpeg[: frame + 5] + struct.pack(">HH", height, width) + jpeg[frame + 9 :]


def widen_gif(gif: bytes, canvas_width: int, canvas_height: int, width: int = 0, height: int = 0) -> bytes:
    """The same file with another canvas, and with another size of its frame where one is given."""
    frame = gif.index(b",", 13 + (3 * (2 << (gif[10] & 7)) if gif[10] & 128 else 0))
    size = struct.pack("<HH", width, height) if width else gif[frame + 5 : frame + 9]
    return gif[:6] + struct.pack("<HH", canvas_width, canvas_height) + gif[10 : frame + 5] + size + gif[frame + 9 :]


def extend_gif(gif: bytes, extensions: bytes) -> bytes:
    """The same file with `extensions` before its first frame."""
    at = 13 + (3 * (2 << (gif[10] & 7)) if gif[10] & 128 else 0)
    return gif[:at] + extensions + gif[at:]


def split_png(data: bytes, size: int) -> bytes:
    """A PNG that Pillow wrote, with its pixels in chunks of `size` bytes."""
    pixels, at = b"", 8
    while at < len(data):
        length = int.from_bytes(data[at : at + 4])
        pixels += data[at + 8 : at + 8 + length] if data[at + 4 : at + 8] == b"IDAT" else b""
        at += 12 + length
    chunks = [chunk(b"IDAT", pixels[at : at + size]) for at in range(0, len(pixels), size)]
    return data[:33] + b"".join(chunks) + chunk(b"IEND", b"")


def webp_canvas(webp: bytes, width: int, height: int) -> bytes:
    """A still WebP on a canvas of another size."""
    sides = struct.pack("<L", width - 1)[:3] + struct.pack("<L", height - 1)[:3]
    body = b"WEBPVP8X" + struct.pack("<L", 10) + bytes(4) + sides + webp[12:]
    return b"RIFF" + struct.pack("<L", len(body)) + body


def rle_bmp(width: int, height: int, runs: bytes) -> bytes:
    """A BMP of 8 bits and run lengths, with a green palette."""
    palette = b"".join(bytes((0, i, 0, 0)) for i in range(256))
    offset = 54 + len(palette)
    header = struct.pack(
        "<LHHLLLLHHLLLLLL", offset + len(runs), 0, 0, offset, 40, width, height, 1, 8, 1, 0, 0, 0, 256, 0
    )
    return b"BM" + header + palette + runs


def tiff(tags: dict[int, tuple[int, int]], body: bytes) -> bytes:
    """A grey TIFF with these tags (type, value), whose strips or tiles are `body`.

    For strips (273) the value is how many there are, and the body starts with their offsets.
    """
    tags = {258: (3, 8), 259: (3, 1), 262: (3, 1), 277: (3, 1), **tags}
    pieces = {324: (4, 0), 325: (4, len(body))} if 322 in tags else {273: (4, 1), 278: (4, 20), 279: (4, len(body))}
    tags = dict(sorted({**pieces, **tags}.items()))
    start = 8 + 2 + 12 * len(tags) + 4
    entries = b""
    for tag, (kind, value) in tags.items():
        many = tag == 273 and value > 1
        at = start if many or tag in (273, 324) else value
        entries += struct.pack("<HHLL", tag, kind, value if many else 1, at)
    return b"II*\0" + struct.pack("<LH", 8, len(tags)) + entries + bytes(4) + body


def tiff_with_exif(values: int) -> bytes:
    """A small TIFF whose EXIF directory has one tag with `values` numbers."""
    plain = tiff({256: (4, 20), 257: (4, 20), 34665: (4, 0)}, bytes(400))
    at = len(plain)
    directory = struct.pack("<HHHLLL", 1, 37500, 3, values, at + 18, 0)
    pointer = plain.index(struct.pack("<HHLL", 34665, 4, 1, 0))
    pointing = plain[: pointer + 8] + struct.pack("<L", at) + plain[pointer + 12 :]
    return pointing + directory + np.full(values, 40_000, "<u2").tobytes()
