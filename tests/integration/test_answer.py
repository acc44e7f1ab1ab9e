"""The service answers what the Ray application answers, by an independent reference, for pictures of all kinds."""

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.conftest import Service
from tests.pictures import draw, encode
from tests.reference import reference_answer, reference_embedding, reference_pixels
from transformer.decode import decode


def _rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    return encode(draw(400, 300, 5), "JPEG", exif=exif.tobytes(), quality=95)


def _animated(format: str) -> bytes:
    frames = [draw(300, 260, seed) for seed in range(3)]
    return encode(frames[0], format, save_all=True, append_images=frames[1:], duration=100)


def _sixteen_bit() -> bytes:
    levels = np.linspace(0, 700, 320 * 240).reshape(240, 320).astype(np.uint16)
    return encode(Image.fromarray(levels), "PNG")


PICTURES: Mapping[str, Callable[[], bytes]] = {
    "jpeg": lambda: encode(draw(500, 375), "JPEG", quality=90),
    "upright": lambda: encode(draw(333, 512, 1), "JPEG"),
    "progressive": lambda: encode(draw(640, 480, 2), "JPEG", progressive=True),
    "rgba": lambda: encode(draw(300, 300, 3).convert("RGBA"), "PNG"),
    "grey": lambda: encode(draw(401, 299, 4).convert("L"), "PNG"),
    "grey with alpha": lambda: encode(draw(401, 299, 4).convert("LA"), "PNG"),
    "palette": lambda: encode(draw(320, 240, 6).convert("P"), "PNG"),
    "cmyk": lambda: encode(draw(320, 240, 7).convert("CMYK"), "JPEG"),
    "16 bit": _sixteen_bit,
    "rotated by exif": _rotated,
    "animated gif": lambda: _animated("GIF"),
    "animated webp": lambda: _animated("WEBP"),
    "one pixel": lambda: encode(Image.new("RGB", (1, 1), (200, 30, 90)), "PNG"),
    "wide": lambda: encode(draw(1600, 90, 8), "PNG"),
    "small": lambda: encode(draw(31, 57, 9), "PNG"),
}


# How far probabilities and similarities may be off, and how near to each other matches that change places.
TO_THE_LAST_DIGITS = (1e-4, 1e-5, 1e-6)
NEARLY = (1e-3, 5e-4, 5e-4)  # where the reference resizes the picture itself


def expected(service: Service, data: bytes, k: int, n: int) -> dict[str, Any]:
    workshop = service.workshop
    # The demo's index was made with EXIF turning on, and says so.
    return reference_answer(workshop.model / "clip", workshop.model / "head", workshop.index, data, k, n, exif=True)


def decoded_as_png(data: bytes) -> bytes:
    """Our pixels, which the reference need not resize."""
    return encode(Image.fromarray(decode(data, 224, exif_orientation=True)), "PNG")


def assert_answers(service: Service, data: bytes, answer: dict[str, Any], k: int, n: int) -> None:
    """As the reference does: to the last digits with our pixels, and near to it with Hugging Face's own."""
    assert_same(answer, expected(service, decoded_as_png(data), k, n), *TO_THE_LAST_DIGITS)
    assert_same(answer, expected(service, data, k, n), *NEARLY)


def assert_same(
    answer: dict[str, Any], reference: dict[str, Any], probability: float, similarity: float, tie: float
) -> None:
    ours, theirs = answer["probabilities"], reference["probabilities"]
    assert list(ours) == list(theirs)
    np.testing.assert_allclose(list(ours.values()), list(theirs.values()), atol=probability)
    assert _order(ours) == _order(theirs)
    assert len(answer["top_matches"]) == len(reference["top_matches"])
    for got, want in zip(answer["top_matches"], reference["top_matches"], strict=True):
        assert got["similarity"] == pytest.approx(want["similarity"], abs=similarity)
        alike = [m["path"] for m in reference["top_matches"] if abs(m["similarity"] - want["similarity"]) < tie]
        assert got["path"] in alike


def _order(probabilities: Mapping[str, float]) -> list[str]:
    return sorted((name for name, p in probabilities.items() if p > 1e-3), key=lambda name: -probabilities[name])


@pytest.mark.parametrize("kind", PICTURES)
def test_every_kind_of_picture(service: Service, kind: str) -> None:
    data = PICTURES[kind]()
    answer = httpx.post(
        f"{service.url}/predict/",
        params={"k": 3, "n": 7},
        content=data,
        headers={"content-type": "image/x"},
        timeout=60,
    )
    assert answer.status_code == 200, answer.text
    assert_answers(service, data, answer.json(), 3, 7)


@pytest.mark.parametrize(("k", "n"), [(1, 5), (4, 5), (16, 60)])
def test_held_out_pictures_by_url(service: Service, k: int, n: int) -> None:
    for path in service.held_out[::6]:
        request = {"url": service.picture_url(path), "k": k, "n": n}
        answer = httpx.post(f"{service.url}/predict/", json=request, timeout=60)
        assert_answers(service, path.read_bytes(), answer.json(), k, n)


@pytest.mark.parametrize(
    ("size", "most"),
    [((4000, 3000), 0.01), *(((width, height), 0.001) for width, height in [(1920, 1080), (500, 375), (150, 100)])],
)
def test_faster_decoding_hardly_moves_the_embedding(service: Service, size: tuple[int, int], most: float) -> None:
    """At most 1 % of the median distance between pictures, after the mean of all embeddings is taken away.

    What is not large is moved by a tenth of that.
    """
    from predictor.model import load_engine

    engine = load_engine(service.workshop.model, allow_unmarked=False, threads=None)
    pictures = [encode(draw(*size, seed), "JPEG", quality=90) for seed in range(6)]
    ours = np.stack([decode(data, 224, exif_orientation=True) for data in pictures])
    exact = np.stack([reference_pixels(data, 224, exif=True) for data in pictures])
    assert (np.abs(ours.astype(int) - exact).max() > 2) == (size == (4000, 3000)), "only the large one is drafted"
    moved = engine.predict(ours).embedding - (kept := engine.predict(exact).embedding)
    centred = kept - kept.mean(axis=0)
    distances = [np.linalg.norm(a - b) for a, b in itertools.combinations(centred, 2)]
    assert np.linalg.norm(moved, axis=1).max() <= most * np.median(distances)


def test_the_embedding_is_hugging_faces(service: Service) -> None:
    data = service.held_out[5].read_bytes()
    body = {"outputs": [{"name": "embedding"}], "inputs": [{"name": "url", "shape": [1], "datatype": "BYTES"}]}
    body["inputs"][0]["data"] = [service.picture_url(service.held_out[5])]  # type: ignore[assignment]
    answer = httpx.post(f"{service.url}/v2/models/doggos/infer", json=body, timeout=60).json()
    for read, most in ((decoded_as_png(data), 1e-4), (data, 1e-3)):  # with our pixels, and with theirs
        embedding = reference_embedding(service.workshop.model / "clip", read, exif=True)
        np.testing.assert_allclose(answer["outputs"][0]["data"], embedding, atol=most)
    assert abs(float(np.linalg.norm(embedding)) - 1) > 0.01, "not L2-normalised"
