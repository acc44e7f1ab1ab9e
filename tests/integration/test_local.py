"""`local.py` and the example: the service's answers in one process."""

import asyncio
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow.parquet as pq
import pytest
from matplotlib.patches import Rectangle
from PIL import Image

from embeddings import read_embeddings, write_embeddings_part
from examples import similar_pictures
from local import Answer, Doggos
from serving.errors import AddressRefused, ArtefactError, InvalidRequest, NotReady, OutOfRange, SettingError
from tests.conftest import Service


@pytest.fixture(scope="module")
def dogs(service: Service) -> Doggos:
    return Doggos(service.workshop.model, service.workshop.index, allow_networks="127.0.0.1/32")


def over_http(service: Service, picture: Path, **query: int) -> dict[str, Any]:
    body = {"url": service.picture_url(picture), **query}
    return httpx.post(f"{service.url}/predict/", json=body, timeout=30).json()  # type: ignore[no-any-return]


def assert_same(answer: Answer, expected: dict[str, Any]) -> None:
    assert answer.probabilities == pytest.approx(expected["probabilities"], abs=1e-6)
    assert list(answer.probabilities) == list(expected["probabilities"])
    matches = expected["top_matches"]
    assert [(match.label, match.path) for match in answer.matches] == [(m["class"], m["path"]) for m in matches]
    assert [match.similarity for match in answer.matches] == pytest.approx([m["similarity"] for m in matches], abs=1e-6)


def test_answers_are_those_of_the_service(service: Service, dogs: Doggos) -> None:
    for picture in service.held_out[::6]:
        assert_same(dogs.ask(picture), over_http(service, picture))
    expected = over_http(service, service.held_out[1], k=2, n=9)
    assert len(expected["top_matches"]) == 9
    picture = service.held_out[1]
    for form in (str(picture), picture, picture.read_bytes(), service.picture_url(picture)):
        assert_same(dogs.ask(form, k=2, n=9), expected)


def test_it_works_inside_a_running_event_loop(service: Service, dogs: Doggos) -> None:
    async def cell() -> Answer:
        return dogs.ask(service.picture_url(service.held_out[0]))

    assert asyncio.run(cell()) == asyncio.run(cell()) == dogs.ask(service.held_out[0])


def test_errors_are_those_of_the_service_and_do_not_spoil_later_answers(service: Service, dogs: Doggos) -> None:
    for _ in range(4):  # more often than there are places in its queues
        with pytest.raises(InvalidRequest):
            dogs.ask(b"not a picture")
        with pytest.raises(AddressRefused):
            dogs.ask("http://169.254.169.254/latest")
        with pytest.raises(OutOfRange):
            dogs.ask(service.held_out[0], k=0)
        with pytest.raises(FileNotFoundError):
            dogs.ask("missing.jpg")
    assert_same(dogs.ask(service.held_out[0]), over_http(service, service.held_out[0]))


def test_an_index_of_another_or_an_unknown_clip_is_refused(service: Service, tmp_path: Path) -> None:
    index = read_embeddings(str(service.workshop.index))
    assert index.mark
    rows = [index.labels[code] for code in index.codes[:5]]
    other = replace(index.mark, fingerprint="0" * 16)
    part = tmp_path / "part.parquet"
    write_embeddings_part(part, index.paths.to_pylist()[:5], rows, np.ascontiguousarray(index.matrix[:5]), other)
    with pytest.raises(NotReady, match="0000000000000000"):
        Doggos(service.workshop.model, part).ask(service.held_out[0])
    pq.write_table(pq.read_table(part).replace_schema_metadata(None), part)
    with pytest.raises(ArtefactError, match="does not say which CLIP"):
        Doggos(service.workshop.model, part)
    assert len(Doggos(service.workshop.model, part, allow_unmarked=True).ask(service.held_out[0], k=16).matches) == 5


def test_kserve_is_not_imported() -> None:
    code = (
        "import sys, local; print(sorted(name for name in sys.modules if name.split('.')[0] in ('kserve', 'fastapi')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def sheet_flags(service: Service) -> list[str]:
    workshop = service.workshop
    folders = {"model_dir": workshop.model, "index_dir": workshop.index, "images": workshop.images}
    return [text for name, folder in folders.items() for text in (f"--{name}", str(folder))]


def test_the_example_shows_the_picture_the_classes_and_the_matches(
    service: Service, dogs: Doggos, tmp_path: Path
) -> None:
    asked, images = service.held_out[5], service.workshop.images
    answer = dogs.ask(asked, k=3, n=7)
    figure = similar_pictures.draw_sheet(asked, answer, images, k=3)
    picture, bars, *matches = figure.axes
    widths = [bar.get_width() for bar in bars.patches if isinstance(bar, Rectangle)]
    assert widths == sorted(answer.probabilities.values(), reverse=True)[:3]
    shown = [(axes.get_title(), axes.get_xlabel()) for axes in matches if axes.images]
    assert shown == [(m.label.replace("_", " "), f"similarity {m.similarity:.3f}") for m in answer.matches]
    for axes, path in zip([picture, *matches], [asked, *(images / m.path for m in answer.matches)], strict=False):
        drawn = np.asarray(axes.images[0].get_array())  # [320, 320, 3] uint8
        with Image.open(path) as image:
            side, left, top = min(image.size), max(0, image.width - image.height), max(0, image.height - image.width)
            middle = np.asarray(image)[top // 2 : top // 2 + side, left // 2 : left // 2 + side]  # [side, side, 3]
        np.testing.assert_allclose(drawn.mean(axis=(0, 1)), middle.mean(axis=(0, 1)), atol=2)
    sheet = tmp_path / "sheet.png"
    similar_pictures.main([str(asked), *sheet_flags(service), "--output", str(sheet), "--k", "3", "--n", "7"], {})
    with Image.open(sheet) as image:
        assert image.format == "PNG" and image.width > 1000
        assert len(set(image.convert("RGB").resize((100, 80)).get_flattened_data())) > 100  # drawn, not blank


def test_the_example_says_what_is_wrong(service: Service, tmp_path: Path) -> None:
    asked = str(service.held_out[0])
    for arguments, says in [
        (["missing.jpg", *sheet_flags(service)], "PICTURE: 'missing.jpg' is not a file"),
        ([asked, *sheet_flags(service), "--images", ""], "--images: '' is not a folder"),
    ]:
        with pytest.raises(SettingError, match=says):
            similar_pictures.main(arguments, {})
    with pytest.raises(ArtefactError, match="cannot be shown; --images must be the folder that was embedded"):
        similar_pictures.main([asked, *sheet_flags(service), "--images", str(tmp_path)], {})
