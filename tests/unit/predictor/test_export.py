"""An export gives torch's answers, says what it is, and is there whole or not at all."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import predictor.export
import predictor.precision
from contract import Pixels, Prediction, PredictorInfo
from predictor.agreement import Agreement, compare
from predictor.export import export
from predictor.export_settings import ExportSettings
from predictor.exported import NETWORK_FILES, Measured, hash_file, read_exported
from predictor.head import Head, HeadArguments, TrainedHead, load_head, save_head
from predictor.model import Network
from predictor.model import load_engine as load_torch
from predictor.onnx_graph import write_onnx
from predictor.openvino import load_engine
from predictor.precision import choose_precision
from sample import make_clip
from serving.errors import ArtefactError, SettingError
from transformer.decode import decode
from workshop import Workshop

SMALL = 42  # a width that no other test uses, cut into patches of 14
EXACT = Agreement(1.0, 1.0, 0.0, 1.0)


def settings(model: Path, output: Path, precision: str = "fp32") -> ExportSettings:
    return ExportSettings(model_dir=str(model), output=str(output), precision=precision)


@pytest.fixture(scope="module")
def sample_export(workshop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("exports") / "new" / "v1"  # the folder above is made too
    export(settings(workshop.model, output))
    return output


@pytest.fixture(scope="module")
def bare_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small CLIP of another size and patch, without a head."""
    folder = tmp_path_factory.mktemp("bare")
    make_clip(folder / "clip", image_size=SMALL, patch_size=14)
    return folder


@pytest.fixture(scope="module")
def pictures(workshop: Workshop) -> Pixels:
    paths = sorted(workshop.asked.rglob("*.jpg"))[:21]
    return np.stack([decode(path.read_bytes(), 224, exif_orientation=False) for path in paths])


def test_answers_are_torchs_for_any_number_of_pictures(
    workshop: Workshop, sample_export: Path, pictures: Pixels
) -> None:
    reference, engine = load_torch(workshop.model, allow_unmarked=False, threads=2), load_engine(sample_export, 2)
    for batch in (1, 2, 5, 8, 21, 1):
        wanted, given = reference.predict(pictures[-batch:]), engine.predict(pictures[-batch:])
        assert given.probabilities is not None and wanted.probabilities is not None
        assert given.embedding.shape == (batch, 64)
        np.testing.assert_allclose(given.probabilities, wanted.probabilities, atol=1e-4)
        np.testing.assert_allclose(given.embedding, wanted.embedding, atol=1e-3)
        assert (given.classes, given.info) == (wanted.classes, wanted.info)


def test_only_float32_is_warm_without_a_batch_of_each_size(sample_export: Path) -> None:
    engine = load_engine(sample_export, threads=2)
    assert list(engine.list_warm_ups(8)) == [1, 8] and list(engine.list_warm_ups(1)) == [1]
    engine.precision = "int8"
    assert list(engine.list_warm_ups(3)) == [1, 2, 3]


def test_export_json_says_what_is_there(workshop: Workshop, sample_export: Path) -> None:
    exported, head = read_exported(sample_export), load_head(workshop.model / "head")
    assert exported.classes == head.classes  # in label order
    assert exported.mark == head.mark
    assert (exported.size, exported.dim, exported.resize, exported.precision) == (224, 64, "bicubic", "fp32")
    found = {p.relative_to(sample_export).as_posix(): hash_file(p) for p in sample_export.rglob("*") if p.is_file()}
    assert found.pop("export.json")
    assert exported.files == found
    assert {*NETWORK_FILES, "clip/config.json", "clip/model.safetensors", "head/model.pt", "head/clip.json"} <= set(
        found
    )


def test_both_engines_serve_the_folder(sample_export: Path, pictures: Pixels) -> None:
    by_torch = load_torch(sample_export, allow_unmarked=False, threads=2).predict(pictures[:2])
    np.testing.assert_allclose(
        load_engine(sample_export, 2).predict(pictures[:2]).embedding, by_torch.embedding, atol=1e-3
    )


def test_without_a_head_there_is_only_an_embedding(bare_model: Path, tmp_path: Path) -> None:
    # What people leave in such folders: weights for other frameworks, and their own notes.
    (bare_model / "clip" / "tf_model.h5").write_bytes(b"weights")
    (bare_model / "clip" / ".gitattributes").write_text("hidden")
    (bare_model / "clip" / "model.safetensors").chmod(0o600)  # as safetensors writes it
    exported = export(settings(bare_model, tmp_path / "out"))
    engine = load_engine(tmp_path / "out", threads=2)
    prediction = engine.predict(np.zeros((3, SMALL, SMALL, 3), np.uint8))
    assert (prediction.probabilities, engine.classes, exported.classes) == (None, (), ())
    assert prediction.embedding.shape == (3, 64)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["clip", "export.json", "onnx"]
    assert not any(name.endswith((".h5", ".gitattributes")) for name in exported.files)
    assert exported.mark.exif_orientation is False
    readable = (tmp_path / "out" / "clip" / "model.safetensors").stat().st_mode & 0o044
    assert readable == (tmp_path / "out" / "export.json").stat().st_mode & 0o044, "a pod reads it as somebody else"


def test_an_unmarked_head_is_taken_when_that_is_asked_for(bare_model: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "clip").symlink_to(bare_model / "clip")
    arguments = HeadArguments(64, 8, 0.0, 2)
    save_head(TrainedHead(Head(arguments).eval(), arguments, ("b", "a"), None), model)  # as an MLflow run: at the top
    with pytest.raises(ArtefactError, match="says which CLIP"):
        export(settings(model, tmp_path / "out"))
    exported = export(replace(settings(model, tmp_path / "out"), allow_unmarked=True))
    assert exported.classes == ("b", "a") and not exported.mark.exif_orientation
    copied = sorted(path.name for path in (tmp_path / "out" / "head").iterdir())
    assert copied == ["args.json", "class_to_label.json", "model.pt"]


def test_a_graph_that_computes_something_else_is_refused(
    bare_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_other(network: Network, size: int, path: Path) -> None:
        shift = network.shift.clone()
        network.shift.add_(0.3)  # as if another mean were folded in
        write_onnx(network, size, path)
        network.shift.copy_(shift)

    monkeypatch.setattr(predictor.export, "write_onnx", write_other)
    with pytest.raises(ArtefactError, match="does not compute what torch does"), torch.inference_mode():
        export(settings(bare_model, tmp_path / "out"))
    assert list(tmp_path.iterdir()) == [], "nothing half made is left"


def test_a_folder_is_never_overwritten(bare_model: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="is there already"):
        settings(bare_model, tmp_path)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ArtefactError, match="cannot be written"):
        export(settings(bare_model, tmp_path / "file" / "out"))
    assert (tmp_path / "file").read_text() == "mine"


def test_a_precision_is_not_offered_where_the_processor_lacks_it(
    bare_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictor.precision, "find_precisions", lambda: ("fp32",))
    for name in ("bf16", "fp16"):
        with pytest.raises(SettingError, match=f"--precision {name}: this processor cannot .* it offers fp32"):
            export(settings(bare_model, tmp_path / "out", name))
    exported = export(settings(bare_model, tmp_path / "out", "auto"))
    assert (exported.precision, [one.precision for one in exported.measured]) == ("fp32", ["fp32"])


def measured(*, bf16: Agreement, times: float = 4.0, fp32: Agreement = EXACT) -> tuple[Measured, Measured]:
    return Measured("fp32", fp32, 10.0, 20.0), Measured("bf16", bf16, 10.0 * times, 20.0 * times)


def test_auto_takes_the_fastest_that_agrees() -> None:
    near, off = Agreement(0.9995, 0.98, 0.02, 1.0), Agreement(0.9989, 0.98, 0.02, 1.0)
    other_class = replace(near, same_top=0.9375)
    assert choose_precision(measured(bf16=near), "auto") == ("bf16", True)
    assert choose_precision(measured(bf16=near), "auto", {"bf16"}) == ("fp32", True)  # by held-out pictures
    assert choose_precision(measured(bf16=near), "bf16", {"bf16"}) == ("bf16", False)
    assert choose_precision(measured(bf16=off), "auto") == ("fp32", True)
    assert choose_precision(measured(bf16=other_class), "auto") == ("fp32", True)
    assert choose_precision(measured(bf16=near, times=1.1), "auto") == ("fp32", True)  # within the noise
    assert choose_precision(measured(bf16=near, times=0.5), "bf16") == ("bf16", True)  # as asked
    assert choose_precision(measured(bf16=near), "fp32") == ("fp32", True)
    int8 = Measured("int8", off, 80.0, 160.0)  # judged by held-out pictures only
    assert choose_precision((*measured(bf16=near), int8), "auto") == ("int8", True)
    assert choose_precision((*measured(bf16=near), int8), "auto", {"int8"}) == ("bf16", True)
    with pytest.raises(ArtefactError, match="use --precision fp32"):
        choose_precision(measured(bf16=off), "bf16")
    with pytest.raises(ArtefactError, match="does not compute what torch does"):
        choose_precision(measured(bf16=near, fp32=replace(EXACT, largest_difference=2e-4)), "auto")


def test_what_is_not_a_number_agrees_with_nothing() -> None:
    info = PredictorInfo("0" * 16, 1, "bicubic")
    embedding, probabilities = np.ones((2, 4), np.float32), np.array([[0.9, 0.1], [0.52, 0.48]], np.float32)
    reference = Prediction(embedding, probabilities, ("a", "b"), info)
    tie = compare(replace(reference, probabilities=np.array([[0.8, 0.2], [0.49, 0.51]], np.float32)), reference)
    assert tie.same_top == 1 and tie.largest_difference == pytest.approx(0.1)
    changed = compare(replace(reference, probabilities=probabilities[:, ::-1]), reference)
    assert changed.same_top == 0.5
    unsure = np.array([[0.56, 0.44], [0.04, 0.001]], np.float32)
    other_way = replace(reference, probabilities=unsure[:, ::-1])
    assert compare(other_way, replace(reference, probabilities=unsure)).same_top == 0
    lost = compare(
        replace(
            reference, embedding=np.full_like(embedding, np.nan), probabilities=np.full_like(probabilities, np.nan)
        ),
        reference,
    )
    assert lost.cosine_min == -1 and lost.largest_difference > 1


def test_the_json_is_readable_by_others(sample_export: Path) -> None:
    fields = json.loads((sample_export / "export.json").read_text())
    assert fields["contract"] == 1 and fields["mark"]["name"] == "sample"
    assert fields["measured"][0]["agreement"]["cosine_min"] > 0.9999
    assert {"torch", "transformers", "onnx", "openvino"} <= set(fields["versions"])
