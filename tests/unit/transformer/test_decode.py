"""Decoding against Hugging Face's own processor, and against files that are no good."""

import io
import re
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from contract import Pixels
from serving.errors import InvalidRequest, ServiceError, TooLarge
from tests.pictures import draw, draw_noise, encode, hostile_files, odd_pictures, split_png, turned
from tests.reference import reference_pixels
from transformer import resample
from transformer.decode import decode

# Under pytest Pillow's warnings are shown; that they are not otherwise is tested in a process of its own.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

ODD = odd_pictures()
HOSTILE = hostile_files()
ROOT = Path(__file__).parents[3]


def decoded(data: bytes, size: int, exif: bool = False) -> Pixels:
    return decode(data, size, exif_orientation=exif)


def differs(one: Pixels, other: Pixels, most: int = 0, mean: float = 0.0) -> bool:
    """Whether two pictures differ by more than `most` levels anywhere, or by more than `mean` on average."""
    if one.shape != other.shape:
        return True
    error = np.abs(one.astype(int) - other)
    return bool(error.max() > most or error.mean() > mean)


def is_rounded_otherwise(one: Pixels, other: Pixels) -> bool:
    """Whether all that differs is how weights were rounded: on noise one value in a hundred, nearly always by 1."""
    return not differs(one, other, most=2, mean=0.02)


@pytest.fixture(params=["vector instructions", "Pillow"])
def way_to_resample(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "Pillow":  # as where cykooz-resizer is not installed
        monkeypatch.setattr(resample, "Resizer", None)
    elif resample.Resizer is None:
        pytest.skip("cykooz-resizer is not installed: it has no wheels for this processor")


@pytest.mark.parametrize("size", [32, 224])
@pytest.mark.parametrize("name", ODD)
def test_every_kind_is_the_reference(name: str, size: int) -> None:
    # At 32 the JPEGs are not drafted either: their short side is below 6 x 32.
    pixels = decoded(ODD[name], size)
    assert pixels.shape == (size, size, 3)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    assert is_rounded_otherwise(pixels, reference_pixels(ODD[name], size, exif=False))


@pytest.mark.parametrize("size", [32, 33, 224, 336])
@pytest.mark.parametrize(
    ("width", "height"),
    [(1, 1), (2, 3), (224, 224), (225, 224), (500, 375), (333, 500), (174, 735), (640, 427), (897, 1201), (299, 1199)],
)
@pytest.mark.usefixtures("way_to_resample")
def test_every_size_is_the_reference(width: int, height: int, size: int) -> None:
    data = encode(draw_noise(width, height), "BMP")
    assert is_rounded_otherwise(decoded(data, size), reference_pixels(data, size, exif=False))


@pytest.mark.parametrize(
    ("width", "height", "size"),
    [
        # Around 2:1, where Pillow's order changes, and beyond, growing and shrinking, upright and lying.
        *[(300, 600, 224), (300, 603, 224), (603, 300, 224), (150, 310, 224), (100, 777, 32)],
        *[(896, 224, 224), (900, 224, 224), (224, 900, 224), (1000, 249, 224), (249, 1000, 224), (880, 219, 224)],
        *[(300, 1301, 224), (1301, 300, 224), (100, 777, 224), (777, 100, 224), (1999, 63, 32), (63, 1999, 32)],
        *[(7, 503, 33), (503, 7, 33), (1, 5000, 32), (5000, 1, 32), (3, 2000, 8), (2000, 3, 8)],
    ],
)
@pytest.mark.usefixtures("way_to_resample")
def test_long_pictures_are_the_reference(width: int, height: int, size: int) -> None:
    data = encode(draw_noise(width, height), "BMP")
    assert is_rounded_otherwise(decoded(data, size), reference_pixels(data, size, exif=False))


@pytest.mark.usefixtures("way_to_resample")
@pytest.mark.parametrize("length", [5000, 50_000_000])
@pytest.mark.parametrize("upright", [True, False])
def test_one_by_fifty_million_is_the_reference_of_its_middle(upright: bool, length: int) -> None:
    # Hugging Face needs 3 GB for 5000; what survives the crop depends on the middle rows only, and
    # 1 x 40 is resized by the same factor. The middle of 50 million is beyond what float32 can count.
    rows = np.zeros((length, 1, 3), np.uint8)
    rows[length // 2 - 100 : length // 2 + 100] = draw_noise(1, 200)
    whole, middle = (
        encode(Image.fromarray(r if upright else r.swapaxes(0, 1)), "PNG")
        for r in (rows, rows[length // 2 - 20 : length // 2 + 20])
    )
    assert is_rounded_otherwise(decoded(whole, 224), reference_pixels(middle, 224, exif=False))


@pytest.mark.parametrize("exif", [True, False])
@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_orientation_is_the_reference(format: str, orientation: int, exif: bool) -> None:
    data = turned(draw(101, 70), format, orientation)  # the crop of 101 starts half a pixel off when it is mirrored
    assert is_rounded_otherwise(decoded(data, 32, exif), reference_pixels(data, 32, exif))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_drafts_are_turned_about_the_right_edge(orientation: int) -> None:
    data = turned(draw(1003, 777), "JPEG", orientation, quality=90)  # neither side is a multiple of 8
    assert not differs(decoded(data, 64, True), reference_pixels(data, 64, True), most=8, mean=0.3)


@pytest.mark.parametrize("exif", [b"garbage, not EXIF", b"II*\0\xff\xff\xff\xffgarbage", b"MM"])
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_damaged_exif_does_not_cost_the_picture(format: str, exif: bytes) -> None:
    data = encode(draw(90, 70), format, exif=b"Exif\0\0" + exif)
    assert is_rounded_otherwise(decoded(data, 32, True), reference_pixels(data, 32, False))


@pytest.mark.parametrize(
    ("width", "height", "progressive"),
    [(5472, 3648, False), (4032, 3024, True), (1999, 3001, True), (1999, 3001, False), (1345, 1344, False)],
)
def test_large_jpegs_are_close_to_the_reference(width: int, height: int, progressive: bool) -> None:
    data = encode(draw(width, height), "JPEG", quality=90, progressive=progressive)
    expected = reference_pixels(data, 224, exif=False)
    assert not differs(decoded(data, 224), expected, most=8, mean=0.3)
    # Or else no draft was taken, and this test checks nothing.
    assert not is_rounded_otherwise(decoded(data, 224), expected)


def test_jpegs_below_six_times_the_size_are_not_drafted() -> None:
    data = encode(draw(1600, 1343), "JPEG", quality=90)
    assert is_rounded_otherwise(decoded(data, 224), reference_pixels(data, 224, exif=False))


def _resize(image: Image.Image, size: int, resample: Image.Resampling, shift: int = 0) -> Pixels:
    short = min(image.size)
    width, height = (size * side // short for side in image.size)
    left, top = (width - size) // 2 + shift, (height - size) // 2
    return np.array(image.resize((width, height), resample).crop((left, top, left + size, top + size)))


MUTANTS: dict[str, Callable[[Image.Image], Pixels]] = {
    "nearest": lambda image: _resize(image, 224, Image.Resampling.NEAREST),
    "bilinear": lambda image: _resize(image, 224, Image.Resampling.BILINEAR),
    "no crop": lambda image: np.array(image.resize((224, 224), Image.Resampling.BICUBIC)),
    "shifted by 8": lambda image: _resize(image, 224, Image.Resampling.BICUBIC, shift=8),
    "shifted by 1": lambda image: _resize(image, 224, Image.Resampling.BICUBIC, shift=1),
    "BGR": lambda image: _resize(image, 224, Image.Resampling.BICUBIC)[:, :, ::-1],
    "mirrored": lambda image: _resize(image, 224, Image.Resampling.BICUBIC)[:, ::-1],
    "upside down": lambda image: _resize(image, 224, Image.Resampling.BICUBIC)[::-1],
}


@pytest.mark.parametrize("name", MUTANTS)
@pytest.mark.parametrize(("width", "height"), [(500, 375), (1050, 1400)])
def test_the_comparison_catches_wrong_pixels(name: str, width: int, height: int) -> None:
    # With the bounds of a draft, the widest that any test here allows.
    image = draw(width, height)
    expected = reference_pixels(encode(image, "BMP"), 224, exif=False)
    assert not differs(_resize(image, 224, Image.Resampling.BICUBIC), expected)
    assert differs(MUTANTS[name](image), expected, most=8, mean=0.3)


def test_the_comparison_catches_a_wrong_orientation() -> None:
    data = [turned(draw(500, 375), "PNG", orientation) for orientation in range(1, 9)]
    pictures = [reference_pixels(one, 224, exif=True) for one in data]
    for i, one in enumerate(pictures):
        assert all(differs(one, other, most=8, mean=0.3) for other in pictures[:i])


def test_transparency_is_dropped_and_not_painted_white() -> None:
    image = draw(50, 50).convert("RGBA")
    image.putalpha(0)
    assert not differs(decoded(encode(image, "PNG"), 50), np.asarray(image)[:, :, :3])


@pytest.mark.parametrize("name", ODD)
def test_a_file_cut_short_is_refused_or_whole(name: str) -> None:
    data = ODD[name]
    whole = decoded(data, 32)
    for length in [*range(0, len(data), max(1, len(data) // 97)), *range(len(data) - 20, len(data))]:
        try:
            pixels = decoded(data[:length], 32)
        except InvalidRequest:
            continue
        # Only what follows the picture is missing: an end marker or a second frame.
        assert not differs(pixels, whole)
        assert length > len(data) * 0.4
    assert all_refused(data[:length] for length in (0, 1, 10, len(data) // 3))


def all_refused(files: object) -> bool:
    for data in files:  # type: ignore[attr-defined]
        with pytest.raises(InvalidRequest):
            decoded(data, 32)
    return True


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        b"\xff\xd8\xff",
        b"hello world" * 100,
        b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>",
        b"<html>404</html>",
        b"%PDF-1.7\n%%EOF",
        b"GIF89a" + bytes(7) + b";",
        encode(draw(9, 9), "PPM"),
        encode(draw(9, 9), "ICO"),
        encode(draw(9, 9), "TGA"),
        encode(draw(9, 9), "EPS"),
    ],
)
def test_other_files_are_refused_with_a_sentence(data: bytes) -> None:
    with pytest.raises(InvalidRequest, match=r"^the picture (is|cannot|has)[^<>]*$") as error:
        decoded(data, 32)
    assert "0x" not in error.value.sentence
    assert error.value.__context__ is None or error.value.__suppress_context__


@pytest.mark.parametrize("zero", [slice(16, 20), slice(20, 24), slice(16, 24)])
def test_a_picture_without_width_or_height_is_refused(zero: slice) -> None:
    png = bytearray(ODD["rgb.png"])
    png[zero] = bytes(zero.stop - zero.start)
    all_refused([bytes(png), b"GIF89a\0\0\0\0\0\0\0,\0\0\0\0\0\0\0\0\0\2\2D\1\0;"])


def test_more_pixels_than_allowed_are_refused_before_decoding() -> None:
    data = encode(draw(40, 30), "PNG")
    assert decode(data, 8, exif_orientation=True, max_pixels=1200).shape == (8, 8, 3)
    for body in (data, data[:60]):  # the header is enough
        with pytest.raises(TooLarge, match="more than 1199 pixels"):
            decode(body, 8, exif_orientation=True, max_pixels=1199)


HOSTILE_PROGRAM = """
import resource, sys
from tests.pictures import draw_noise, encode, hostile_files
from serving.errors import ServiceError
from transformer.decode import decode

files = hostile_files()
long = [encode(draw_noise(1, 5000), "PNG"), encode(draw_noise(5000, 1), "PNG")]
decode(long[0], 32, exif_orientation=True)  # imports what it needs
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 150_000_000,) * 2)
for data in long:
    assert decode(data, 224, exif_orientation=True).shape == (224, 224, 3)
for name, data in files.items():
    try:
        decode(data, 224, exif_orientation=True)
        print(name, "| decoded")
    except ServiceError as error:
        print(name, "|", error.sentence)
"""


def test_hostile_files_are_refused_in_bounded_memory_and_silence() -> None:
    # In a process of its own, because pytest has its own filters of warnings, and for the limit of memory.
    done = subprocess.run(
        [sys.executable, "-c", HOSTILE_PROGRAM], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    sentences = dict(line.split(" | ") for line in done.stdout.splitlines())
    assert sentences.keys() == HOSTILE.keys()
    for name, sentence in sentences.items():
        pixels = "pixels" in name and "tile" not in name and "run lengths" not in name
        assert ("more than 50000000 pixels" in sentence) == pixels, name
        assert "decoded" not in sentence or "cannot be decoded" in sentence, name
        # What only runs out of memory is not refused but unlucky.
        assert "cut short" not in sentence or "text" in name, name
        assert ("too many small pieces" in sentence) == bool(re.search("chunks|comments.gif|between", name)), name


def test_a_large_picture_in_small_pieces_is_decoded() -> None:
    data = encode(draw_noise(1500, 1100), "PNG", compress_level=0)  # 5 MB, more than a screenshot has
    whole = decode(data, 224, exif_orientation=True)
    assert np.array_equal(decode(split_png(data, 256), 224, exif_orientation=True), whole)


MUTABLE = [*ODD.values(), *(turned(draw(30, 20), format, 6) for format in ("JPEG", "PNG", "WEBP", "TIFF"))]


@given(
    st.sampled_from(MUTABLE),
    st.lists(
        st.tuples(
            st.one_of(st.integers(0, 120), st.integers(0, 40_000)),  # often in the header
            st.sampled_from([0, 1, 2, 4]),  # how many bytes go
            st.one_of(st.sampled_from([b"", b"\0" * 4, b"\xff" * 4, b"\x7f\xff\xff\xff"]), st.binary(max_size=4)),
        ),
        min_size=1,
        max_size=6,
    ),
)
@settings(max_examples=1500, deadline=None, derandomize=True, database=None)
def test_damaged_files_are_decoded_or_refused(data: bytes, edits: list[tuple[int, int, bytes]]) -> None:
    for at, gone, new in edits:
        at %= len(data)
        data = data[:at] + new + data[at + gone :]
    try:
        pixels = decoded(data, 16, exif=True)
    except (InvalidRequest, TooLarge) as error:
        assert type(error) in (InvalidRequest, TooLarge)
        return
    assert pixels.shape == (16, 16, 3)


def test_threads_do_not_disturb_each_other() -> None:
    files = list(ODD.values())
    expected = [decoded(data, 64) for data in files]

    def again(i: int) -> bool:
        data = files[i % len(files)]
        with pytest.raises(ServiceError):
            decoded(data[: len(data) // 3], 64)
        return not differs(decoded(data, 64), expected[i % len(files)])

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(again, range(10 * len(files))))


def test_the_picture_is_not_kept() -> None:
    """The result owns its memory: a crop that is a view would keep the whole picture alive."""
    pixels = decoded(encode(draw(300, 300), "PNG"), 32)
    assert pixels.base is None
    assert io.BytesIO(pixels.tobytes()).getbuffer().nbytes == 32 * 32 * 3
