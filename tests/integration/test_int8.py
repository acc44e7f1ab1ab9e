"""int8: calibrated with one's own pictures, held against torch on others, and served only when it passed."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import csv

import predictor.export
import predictor.openvino
import predictor.quantisation
from contract import Pixels
from embeddings import read_embeddings
from launch import FREE_PORTS, StartError, start_server
from predictor.agreement import compare_embeddings
from predictor.export import export
from predictor.export_settings import ExportSettings
from predictor.exported import INT8_FILES, read_exported
from predictor.held_out import compare_matches, open_index
from predictor.model import load_engine as load_torch
from predictor.openvino import load_engine
from predictor.pictures import read_pictures
from serving.errors import ArtefactError, SettingError
from tests.reference import reference_matches
from transformer.decode import decode
from workshop import Workshop


@pytest.fixture(scope="module")
def few(workshop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three pictures of each breed, in class folders."""
    folder = tmp_path_factory.mktemp("calibration")
    for breed in sorted(workshop.images.iterdir()):
        (folder / breed.name).mkdir()
        for picture in sorted(breed.iterdir())[:3]:
            shutil.copy(picture, folder / breed.name)
    return folder


@pytest.fixture(scope="module")
def exported(workshop: Workshop, few: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, Path]:
    """An int8 export by the program itself, what it said, and the HOME that it had."""
    output, home = tmp_path_factory.mktemp("exports") / "v1", tmp_path_factory.mktemp("home")
    flags = ["--model_dir", str(workshop.model), "--output", str(output), "--precision", "int8"]
    flags += ["--calibration", str(few), "--index_dir", str(workshop.index)]
    environ = {name: value for name, value in os.environ.items() if name != "CI"} | {"HOME": str(home)}
    done = subprocess.run(
        [sys.executable, "-m", "predictor.export", *flags], env=environ, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return output, done.stdout, home


@pytest.fixture(scope="module")
def pictures(workshop: Workshop) -> Pixels:
    paths = sorted(workshop.asked.rglob("*.jpg"))[:16]
    return np.stack([decode(path.read_bytes(), 224, exif_orientation=True) for path in paths])


def test_the_folder_says_how_int8_was_made_and_how_it_did(few: Path, exported: tuple[Path, str, Path]) -> None:
    folder, said, home = exported
    found = read_exported(folder)
    count = len(list(few.rglob("*.jpg")))
    assert (found.precision, found.usable, found.calibrated_with) == ("int8", True, count // 2)
    (one,) = found.held_out
    assert (one.precision, one.pictures) == ("int8", count - count // 2)
    assert found.thresholds and one.cosine_median >= found.thresholds.cosine_median == 0.99
    assert one.same_top >= found.thresholds.same_top == 0.98
    assert one.cosine_low <= one.cosine_median < 1 and one.same_matches is not None and 0.5 < one.same_matches <= 1
    table = (folder / "agreement" / "agreement.md").read_text()
    assert f"| int8 | {one.cosine_median:.5f} |" in table and table in said
    with Image.open(folder / "agreement" / "agreement.png") as plot:
        assert plot.size[0] > 300
    assert {*INT8_FILES, "agreement/agreement.md", "agreement/agreement.png"} <= set(found.files)
    assert "FakeQuantize" in (folder / INT8_FILES[0]).read_text()
    assert "nncf" in found.versions
    assert not [path for path in home.rglob("*") if "intel" in str(path).lower()], "an id was written for telemetry"


def test_what_was_exported_is_what_is_served(
    workshop: Workshop, exported: tuple[Path, str, Path], pictures: Pixels
) -> None:
    wanted = load_torch(workshop.model, allow_unmarked=False, threads=2).predict(pictures)
    engine = load_engine(exported[0], threads=2)
    given = engine.predict(pictures)
    cosines = compare_embeddings(given.embedding, wanted.embedding)
    assert engine.precision == "int8" and np.median(cosines) >= 0.99
    assert np.abs(given.embedding - wanted.embedding).max() > 1e-3, "it computed in float32"


def test_a_processor_without_int8_is_refused(exported: tuple[Path, str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictor.openvino, "read_property", lambda name: ["FP32", "BF16", "FP16"])
    with pytest.raises(ArtefactError, match="int8, which this processor cannot compute"):
        load_engine(exported[0], threads=1)


@pytest.mark.parametrize("name", INT8_FILES)
def test_a_changed_network_is_named(exported: tuple[Path, str, Path], tmp_path: Path, name: str) -> None:
    copy = tmp_path / "v1"
    shutil.copytree(exported[0], copy)
    with (copy / name).open("ab") as file:
        file.write(b"\n")
    with pytest.raises(ArtefactError, match=f"{name} is not the file that was exported"):
        load_engine(copy, threads=1)


def test_below_the_thresholds_the_folder_is_there_for_people_and_for_no_server(
    workshop: Workshop,
    few: Path,
    exported: tuple[Path, str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def copy(graph: Path, target: Path, pixels: Pixels) -> None:  # what was calibrated already
        shutil.copytree((exported[0] / INT8_FILES[0]).parent, target.parent)

    monkeypatch.setattr(predictor.export, "quantise", copy)
    output = tmp_path / "v1"
    flags = ["--model_dir", str(workshop.model), "--output", str(output), "--calibration", str(few)]
    with pytest.raises(ArtefactError, match="marked as not usable"):
        predictor.export.main([*flags, "--precision", "int8", "--min_cosine", "1"], {})
    assert "no index | no |" in capsys.readouterr().out
    assert json.loads((output / "export.json").read_text())["usable"] is False
    assert (output / "agreement" / "agreement.md").exists()
    with pytest.raises(StartError, match=r"exit code 1: error: .*int8 export is not usable"):
        start_server("predictor", [*FREE_PORTS, "--model_dir", str(output)], tmp_path / "log")
    # auto measures it as well, says so, and serves another; nothing of it is left to download.
    other = export(ExportSettings(str(workshop.model), output=str(tmp_path / "v2"), calibration=str(few), min_cosine=1))
    assert other.precision != "int8" and other.usable and "int8" in other.failed
    assert "int8" in {one.precision for one in other.measured} and not (tmp_path / "v2" / "int8").exists()


def test_without_nncf_the_way_to_it_is_named(few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictor.quantisation, "find_spec", lambda name: None)
    with pytest.raises(SettingError, match=r"pip install -r requirements/export\.txt"):
        export(ExportSettings("nowhere", output=str(tmp_path / "v1"), precision="int8", calibration=str(few)))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (["--precision", "int8"], "name your own pictures"),
        (["--precision", "fp32", "--calibration", "x"], "fp32 needs none"),
        (["--index_dir", "x"], "--index_dir goes with --calibration"),
        (["--image_root", "x"], "--image_root goes with --calibration"),
        (["--min_cosine", "2"], "use a number from 0 to 1"),
    ],
)
def test_settings_that_do_not_go_together(changes: Sequence[str], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=sentence):
        predictor.export.main(["--output", str(tmp_path / "v1"), *changes], {})


def test_pictures_are_read_as_they_are_served(workshop: Workshop, few: Path, tmp_path: Path) -> None:
    """From a folder and from a list; what is damaged is left out, and no picture is in both parts."""
    (few / "damaged.jpg").write_bytes(b"\xff\xd8 no more")
    (few / ".hidden.jpg").write_bytes(b"")
    try:
        found = read_pictures(str(few), "", 224, exif_orientation=True, threads=2)
    finally:
        (few / "damaged.jpg").unlink()
    paths = sorted(path.relative_to(few).as_posix() for path in few.rglob("*.jpg") if path.stat().st_size)
    served = [decode((few / path).read_bytes(), 224, exif_orientation=True) for path in paths]

    def find(one: Pixels) -> int:
        """Which of the pictures it is, as the transformer decodes it: nearly to the last bit."""
        (number,) = (i for i, other in enumerate(served) if np.abs(one.astype(int) - other).max() <= 2)
        return number

    parts = [{find(one) for one in part} for part in (found.calibration, found.held_out)]
    assert parts[0] | parts[1] == set(range(len(paths))) and not parts[0] & parts[1]

    csv.write_csv(pa.table({"class": ["x"] * len(paths), "path": paths}), tmp_path / "list.csv")
    listed = read_pictures(str(tmp_path / "list.csv"), str(few), 224, exif_orientation=True, threads=2)
    assert {find(one) for part in (listed.calibration, listed.held_out) for one in part} == set(range(len(paths)))
    indexed = read_pictures(str(workshop.index), str(workshop.images), 224, exif_orientation=True, threads=2)
    assert len(indexed.calibration) + len(indexed.held_out) == len(read_embeddings(str(workshop.index)).paths)

    (tmp_path / "one").mkdir()
    shutil.copy(few / paths[0], tmp_path / "one")
    with pytest.raises(ArtefactError, match="has 1 usable pictures; at least 20"):
        read_pictures(str(tmp_path / "one"), "", 224, exif_orientation=True, threads=1)
    csv.write_csv(pa.table({"class": ["x"], "url": ["http://example.com/x.jpg"]}), tmp_path / "urls.csv")
    with pytest.raises(ArtefactError, match="column path"):
        read_pictures(str(tmp_path / "urls.csv"), "", 224, exif_orientation=True, threads=1)


def test_matches_are_compared_as_a_caller_would_see_them(workshop: Workshop, pictures: Pixels) -> None:
    engine = load_torch(workshop.model, allow_unmarked=False, threads=2)
    index, wanted, given = open_index(str(workshop.index), engine.info.fingerprint), engine.predict(pictures[:4]), None
    given = engine.predict(pictures[:4] // 2 + 40)  # other light: some other matches
    shares = []
    for row in range(4):
        paths = []
        for answer in (wanted, given):
            assert answer.probabilities is not None
            top = [answer.classes[label] for label in np.argsort(-answer.probabilities[row])[:4]]
            paths.append({m["path"] for m in reference_matches(workshop.index, answer.embedding[row], top, 5)})
        shares.append(len(paths[0] & paths[1]) / 5)
    assert compare_matches(index, given, wanted) == pytest.approx(np.mean(shares))
    assert compare_matches(index, wanted, wanted) == 1 > np.mean(shares)
    with pytest.raises(ArtefactError, match="another one"):
        open_index(str(workshop.index), "0" * 16)
