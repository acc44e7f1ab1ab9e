"""The OpenVINO engine: it serves what was exported and refuses everything else, and tells nobody that it runs."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

import predictor.openvino
from launch import FREE_PORTS, StartError, running, start_server
from predictor.export import export
from predictor.export_settings import ExportSettings
from predictor.exported import NETWORK_FILES, ONNX_FILE, hash_file
from predictor.openvino import compile_network, find_precisions, load_engine
from serving.errors import ArtefactError
from tests.conftest import Service
from tests.resident import resident_kilobytes
from workshop import Workshop

Fields = dict[str, Any]


@pytest.fixture(scope="module")
def exported(workshop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("exports") / "v1"
    export(ExportSettings(model_dir=str(workshop.model), output=str(output), precision="fp32"))
    return output


@pytest.fixture
def copy(exported: Path, tmp_path: Path) -> Path:
    """What the engine needs of the export, for a test to break."""
    shutil.copytree(exported / "onnx", tmp_path / "v1" / "onnx")
    shutil.copy(exported / "export.json", tmp_path / "v1")
    return tmp_path / "v1"


def edit(folder: Path, change: Callable[[Fields], object]) -> None:
    path = folder / "export.json"
    fields = json.loads(path.read_text())
    change(fields)
    path.write_text(json.dumps(fields))


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def test_the_engine_needs_only_onnx_and_export_json(copy: Path) -> None:
    assert sorted(path.name for path in copy.iterdir()) == ["export.json", "onnx"]
    assert load_engine(copy, threads=1).size == 224


@pytest.mark.parametrize("name", [*NETWORK_FILES, "export.json"])
@pytest.mark.parametrize(
    "damage",
    [
        cut,
        Path.unlink,
        lambda path: path.write_bytes(b""),
        lambda path: flip(path, 1),
        lambda path: flip(path, -1),
        lambda path: (path.unlink(), path.mkdir()),
    ],
)
def test_a_damaged_file_is_named(copy: Path, name: str, damage: Callable[[Path], object]) -> None:
    damage(copy / name)
    with pytest.raises(ArtefactError) as raised:
        load_engine(copy, threads=1)
    assert str(copy / name) in str(raised.value)


def test_one_changed_bit_of_a_weight_is_noticed(copy: Path) -> None:
    flip(copy / NETWORK_FILES[1], 500_000)
    with pytest.raises(ArtefactError, match="SHA-256 differs"):
        load_engine(copy, threads=1)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda f: f.update(classes=f["classes"][1:]), "has the tensors"),
        (lambda f: f.update(size=336), "has the tensors"),
        (lambda f: (f.update(dim=512), f["mark"].update(dim=512)), "has the tensors"),
        (lambda f: f.update(dim=512), "dim differs"),
        (lambda f: f.update(classes=[f["classes"][1], *f["classes"][1:]]), "twice"),
        (lambda f: f.update(classes=[]), "has the tensors"),
        (lambda f: f.pop("precision"), "precision"),
        (lambda f: f.update(precision="int4"), "precision"),
        (lambda f: f.update(size="224"), "size"),
        (lambda f: f["mark"].pop("fingerprint"), "mark.fingerprint"),
        (lambda f: f["files"].pop(NETWORK_FILES[1]), "files lacks"),
        (lambda f: f.update(files={ONNX_FILE: "x"}), "files"),
        (lambda f: f.update(contract=2), "later release"),
    ],
)
def test_an_export_json_that_says_something_else_is_refused(
    copy: Path, change: Callable[[Fields], object], sentence: str
) -> None:
    edit(copy, change)
    with pytest.raises(ArtefactError, match=sentence):
        load_engine(copy, threads=1)


def test_what_is_no_network_is_refused_whatever_its_digest(copy: Path) -> None:
    (copy / ONNX_FILE).write_bytes(b"hello")
    edit(copy, lambda fields: fields["files"].update({ONNX_FILE: hash_file(copy / ONNX_FILE)}))
    with pytest.raises(ArtefactError, match=r"model\.onnx cannot be loaded"):
        load_engine(copy, threads=1)


def test_bf16_is_refused_where_the_processor_lacks_it(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edit(copy, lambda fields: fields.update(precision="bf16"))
    monkeypatch.setattr(predictor.openvino, "read_property", lambda name: ["FP32", "INT8", "BIN"])
    with pytest.raises(ArtefactError, match="bf16, which this processor cannot compute"):
        load_engine(copy, threads=1)


def test_bf16_is_served_where_it_was_chosen(exported: Path, copy: Path) -> None:
    if "bf16" not in find_precisions():
        pytest.skip("this processor has no bf16")
    edit(copy, lambda fields: fields.update(precision="bf16"))
    pixels = np.random.default_rng(0).integers(0, 256, (4, 224, 224, 3), np.uint8)
    exact, rounded = load_engine(exported, 2).predict(pixels), load_engine(copy, 2).predict(pixels)
    assert not np.array_equal(rounded.embedding, exact.embedding), "it computed in fp32"
    np.testing.assert_allclose(rounded.embedding, exact.embedding, atol=0.05 * float(np.abs(exact.embedding).max()))


def test_precision_and_threads_are_what_was_asked_for(exported: Path) -> None:
    network = compile_network(exported / ONNX_FILE, "fp32", threads=1)
    # Left alone OpenVINO computes in bf16 wherever it can, on all processors, each thread tied to one of them.
    assert "float32" in str(network.get_property("INFERENCE_PRECISION_HINT"))
    assert network.get_property("INFERENCE_NUM_THREADS") == 1
    assert network.get_property("ENABLE_CPU_PINNING") is False


def test_nothing_is_reported_and_nothing_is_written(exported: Path, tmp_path: Path) -> None:
    """In a process of its own, since it reports that it is imported, having written an id of this user below HOME."""
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    work.mkdir()
    script = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(Path.cwd())!r})
from predictor.openvino import load_engine
import numpy as np
load_engine(Path({str(exported)!r}), threads=1).predict(np.zeros((1, 224, 224, 3), np.uint8))
print([name for name in sys.modules if name.startswith("openvino_telemetry") and sys.modules[name]])
"""
    environ = {name: value for name, value in os.environ.items() if name not in ("CI", "HOME")}  # CI silences it too
    for more in ({"HOME": str(home)}, {"HOME": "/nonexistent"}):
        done = subprocess.run(
            [sys.executable, "-c", script], env=environ | more, cwd=work, capture_output=True, text=True, timeout=120
        )
        assert (done.stdout, done.stderr) == ("[]\n", ""), done.stderr
    assert list(home.iterdir()) == list(work.iterdir()) == []


def test_the_server_takes_the_engine_that_the_folder_is_for(service: Service, exported: Path, tmp_path: Path) -> None:
    body = {"inputs": [{"name": "pixels", "shape": [1, 224, 224, 3], "datatype": "UINT8", "data": [90] * 224**2 * 3}]}
    answers = []
    with running("predictor", ["--model_dir", str(exported)], tmp_path / "log") as server:
        for address in (server.http, service.predictor.http):
            answer = httpx.post(f"http://{address}/v2/models/doggos/infer", json=body, timeout=30)
            assert answer.status_code == 200, answer.text
            answers.append(answer.json())
        weights = exported / NETWORK_FILES[1]
        assert resident_kilobytes(weights, server.process.pid) < weights.stat().st_size / 1024 / 4, (
            "they are there twice"
        )
    assert '"engine": "openvino"' in (tmp_path / "log").read_text()
    assert '"engine": "torch"' in service.predictor.log.read_text()
    given, wanted = ({t["name"]: t["data"] for t in answer["outputs"]} for answer in answers)
    np.testing.assert_allclose(given["embedding"], wanted["embedding"], atol=1e-3)
    np.testing.assert_allclose(given["probabilities"], wanted["probabilities"], atol=1e-4)
    assert given["classes"] == wanted["classes"]
    assert answers[0]["parameters"] == answers[1]["parameters"]


@pytest.mark.parametrize(
    ("code", "sentence", "flags"),
    [
        (1, "export.json: no such file", ["--engine", "openvino"]),
        (2, "--device cuda", ["--engine", "openvino", "--device", "cuda"]),
        (2, "--clip: the openvino engine", ["--engine", "openvino", "--clip", "openai/clip-vit-base-patch32"]),
        (2, "use auto, torch or openvino", ["--engine", "onnx"]),
    ],
)
def test_the_server_refuses_in_one_line(
    workshop: Workshop, tmp_path: Path, code: int, sentence: str, flags: list[str]
) -> None:
    with pytest.raises(StartError, match=f"exit code {code}: error: .*{sentence}"):
        start_server("predictor", [*FREE_PORTS, "--model_dir", str(workshop.model), *flags], tmp_path / "log")
    assert "Traceback" not in (tmp_path / "log").read_text()
