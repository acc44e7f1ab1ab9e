"""The torch engine gives Hugging Face's own numbers, and refuses what it cannot serve with a sentence."""

import json
import shutil
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPModel, CLIPVisionModelWithProjection
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from contract import CONTRACT_VERSION, ClipMark, Pixels
from predictor import hub
from predictor.clip import Clip, load_clip, quiet_transformers
from predictor.head import Head, HeadArguments, TrainedHead, load_head, save_head
from predictor.model import TorchEngine, load_engine
from predictor.settings import Computing
from sample import make_clip
from serving.errors import ArtefactError, SettingError

SIZE = 64
CLASSES = ("beagle", "akita", "corgi")  # label order is not the alphabet's


@pytest.fixture(scope="module")
def clip_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole CLIP, text tower included, in float32 safetensors."""
    folder = tmp_path_factory.mktemp("whole") / "clip"
    make_clip(folder, image_size=SIZE, patch_size=16)
    return folder


@pytest.fixture(scope="module")
def clip(clip_dir: Path) -> Clip:
    return load_clip(clip_dir)


@pytest.fixture
def copy(clip_dir: Path, tmp_path: Path) -> Path:
    """A copy of the CLIP that a test may break."""
    shutil.copytree(clip_dir, tmp_path / "clip")
    return tmp_path / "clip"


@pytest.fixture
def pixels() -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (5, SIZE, SIZE, 3), dtype=np.uint8)


def make_head(folder: Path, mark: ClipMark | None, dim: int = 64) -> Path:
    """A head whose BatchNorm has seen something, so that its running statistics matter."""
    arguments = HeadArguments(dim, 32, 0.5, len(CLASSES))
    torch.manual_seed(1)
    network = Head(arguments)
    network.train()(torch.randn(50, dim) * 3 + 1)
    save_head(TrainedHead(network, arguments, CLASSES, mark), folder)
    return folder


def embed_by_hugging_face(folder: Path, pixels: Pixels) -> np.ndarray[Any, Any]:
    inputs = CLIPImageProcessorPil.from_pretrained(folder)(list(pixels), return_tensors="pt")
    with quiet_transformers(), torch.inference_mode():
        model = CLIPVisionModelWithProjection.from_pretrained(folder, dtype=torch.float32)
        return np.asarray(model(**inputs).image_embeds)


def load(model_dir: Path, **changes: Any) -> TorchEngine:
    return load_engine(model_dir, **{"allow_unmarked": False, "threads": None, **changes})


def test_embedding_is_hugging_faces_and_not_normalised(clip_dir: Path, pixels: Pixels) -> None:
    prediction = load(clip_dir.parent).predict(pixels)
    expected = embed_by_hugging_face(clip_dir, pixels)
    np.testing.assert_allclose(prediction.embedding, expected, atol=1e-5)
    with quiet_transformers(), torch.inference_mode():
        inputs = CLIPImageProcessorPil.from_pretrained(clip_dir)(list(pixels), return_tensors="pt")
        features = CLIPModel.from_pretrained(clip_dir).get_image_features(**inputs).pooler_output.numpy()
    np.testing.assert_allclose(prediction.embedding, features, atol=1e-5)
    assert np.abs(np.linalg.norm(prediction.embedding, axis=1) - 1).min() > 0.1
    assert prediction.probabilities is None and prediction.classes == ()
    assert prediction.info.contract == CONTRACT_VERSION and prediction.info.resize == "bicubic"


def test_probabilities_are_the_heads_by_its_formula(clip_dir: Path, clip: Clip, pixels: Pixels, tmp_path: Path) -> None:
    make_head(tmp_path / "head", clip.mark(True))
    engine = load(tmp_path, clip=str(clip_dir))
    pixels.flags.writeable = False  # as gRPC's bytes are
    prediction = engine.predict(pixels)
    w = {k: v.double().numpy() for k, v in torch.load(tmp_path / "head" / "model.pt").items()}
    hidden = embed_by_hugging_face(clip_dir, pixels) @ w["fc1.weight"].T + w["fc1.bias"]
    hidden = (hidden - w["batch_norm.running_mean"]) / np.sqrt(w["batch_norm.running_var"] + 1e-5)
    hidden = np.maximum(0, hidden * w["batch_norm.weight"] + w["batch_norm.bias"])
    logits = hidden @ w["fc2.weight"].T + w["fc2.bias"]
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert prediction.probabilities is not None
    np.testing.assert_allclose(prediction.probabilities, expected, atol=1e-5)
    assert prediction.probabilities.dtype == np.float32
    assert prediction.classes == engine.classes == CLASSES


def test_head_may_lie_at_the_top_as_in_an_mlflow_run(clip_dir: Path, clip: Clip, tmp_path: Path) -> None:
    make_head(tmp_path, clip.mark(True))
    assert load(tmp_path, clip=str(clip_dir)).classes == CLASSES


def vision_only(folder: Path) -> None:
    with quiet_transformers():
        CLIPVisionModelWithProjection.from_pretrained(folder).save_pretrained(folder)


def pickled(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def sharded(folder: Path) -> None:
    """In several files and an index, as large checkpoints come."""
    with quiet_transformers():
        model = CLIPModel.from_pretrained(folder)
        (folder / "model.safetensors").unlink()
        model.save_pretrained(folder, max_shard_size="400KB")
    assert len(list(folder.glob("model-*-of-*.safetensors"))) > 1


def sharded_and_pickled(folder: Path) -> None:
    """The same in PyTorch's older format."""
    sharded(folder)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    for file in folder.glob("model-*.safetensors"):
        torch.save(load_file(file), folder / f"pytorch_{file.stem}.bin")
        file.unlink()
    (folder / "model.safetensors.index.json").unlink()
    names = {key: f"pytorch_{Path(file).stem}.bin" for key, file in index["weight_map"].items()}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({**index, "weight_map": names}))


def older_preprocessor(folder: Path) -> None:
    """The form of openai's own checkpoints: numbers for sizes, defaults left out."""
    path = folder / "preprocessor_config.json"
    fields = json.loads(path.read_text())
    kept = {key: fields[key] for key in ("do_resize", "do_center_crop", "do_normalize", "image_mean", "image_std")}
    path.write_text(
        json.dumps({**kept, "size": SIZE, "crop_size": SIZE, "feature_extractor_type": "CLIPFeatureExtractor"})
    )


def nested_preprocessor(folder: Path) -> None:
    path = folder / "preprocessor_config.json"
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": json.loads(path.read_text())}))
    path.write_text("{}")


FORMS = [vision_only, pickled, sharded, sharded_and_pickled, older_preprocessor, nested_preprocessor]


@pytest.mark.parametrize("rewrite", FORMS)
def test_fingerprint_and_embeddings_do_not_depend_on_the_file_format(
    rewrite: Callable[[Path], None], copy: Path, clip: Clip, clip_dir: Path, pixels: Pixels
) -> None:
    rewrite(copy)
    assert load_clip(copy).fingerprint == clip.fingerprint
    embedding = load(copy.parent).predict(pixels).embedding
    np.testing.assert_array_equal(embedding, load(clip_dir.parent).predict(pixels).embedding)


@pytest.mark.parametrize(("size", "patch"), [(224, 32), (224, 16), (336, 14)], ids=["B/32", "B/16", "L/14@336"])
def test_towers_of_every_resolution_give_hugging_faces_numbers(size: int, patch: int, tmp_path: Path) -> None:
    make_clip(tmp_path / "clip", image_size=size, patch_size=patch)
    vision_only(tmp_path / "clip")
    engine = load(tmp_path)
    pixels = np.random.default_rng(1).integers(0, 256, (2, size, size, 3), dtype=np.uint8)
    assert (engine.size, engine.dim) == (size, 64)
    expected = embed_by_hugging_face(tmp_path / "clip", pixels)
    np.testing.assert_allclose(engine.predict(pixels).embedding, expected, atol=1e-5)


def test_half_precision_files_are_served_in_float32(copy: Path, pixels: Pixels) -> None:
    weights = load_file(copy / "model.safetensors")
    save_file({k: v.half() for k, v in weights.items()}, copy / "model.safetensors", {"format": "pt"})
    half = load_clip(copy)
    assert {tensor.dtype for tensor in half.tower.parameters()} == {torch.float32}
    np.testing.assert_allclose(
        load(copy.parent).predict(pixels).embedding, embed_by_hugging_face(copy, pixels), atol=1e-5
    )
    save_file({k: v.half().float() for k, v in weights.items()}, copy / "model.safetensors", {"format": "pt"})
    assert load_clip(copy).fingerprint == half.fingerprint


def test_fingerprint_sees_the_weights_and_the_normalisation(copy: Path, clip: Clip) -> None:
    change_preprocessor(copy, image_std=[0.5, 0.5, 0.5])
    normalised = load_clip(copy).fingerprint
    weights = load_file(copy / "model.safetensors")
    weights["visual_projection.weight"][0, 0] += 1e-3
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    assert len({clip.fingerprint, normalised, load_clip(copy).fingerprint}) == 3


def change_preprocessor(folder: Path, **changes: Any) -> None:
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"do_center_crop": False}, "do_center_crop is False"),
        ({"do_normalize": False}, "do_normalize is False"),
        ({"do_rescale": False}, "do_rescale is False"),
        ({"resample": 2}, "resample is 2"),
        ({"rescale_factor": 0.5}, "rescale_factor is 0.5"),
        ({"size": {"shortest_edge": SIZE + 10}}, "shortest_edge': 74"),
        ({"size": {"height": SIZE, "width": SIZE}}, "'height': 64"),
        ({"crop_size": {"height": SIZE, "width": 32}}, "crop_size"),
        ({"image_std": [0.5, 0.5]}, "three values"),
        ({"image_mean": "grey"}, "cannot be loaded"),
        ({"image_processor_type": "SiglipImageProcessor"}, "SiglipImageProcessor cannot be served"),
    ],
)
def test_preprocessor_that_decode_does_not_do_is_refused(changes: dict[str, Any], said: str, copy: Path) -> None:
    change_preprocessor(copy, **changes)
    with pytest.raises(ArtefactError, match=r"preprocessor_config\.json") as caught:
        load_clip(copy)
    assert said in str(caught.value)


def break_weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def broken(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        change(weights)
        save_file(weights, folder / "model.safetensors", {"format": "pt"})

    return broken


def cut(name: str) -> Callable[[Path], None]:
    def half(folder: Path) -> None:
        path = folder / name
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return half


def rewrite_json(name: str, **changes: Any) -> Callable[[Path], None]:
    def changed(folder: Path) -> None:
        (folder / name).write_text(json.dumps({**json.loads((folder / name).read_text()), **changes}))

    return changed


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: (folder / "config.json").unlink(), r"config\.json: no such file"),
        (cut("config.json"), r"config\.json cannot be read"),
        (lambda folder: (folder / "config.json").write_text("[]"), r"config\.json is not a JSON object"),
        (rewrite_json("config.json", model_type="siglip"), r"config\.json: model_type is 'siglip'"),
        (lambda folder: (folder / "preprocessor_config.json").unlink(), r"preprocessor_config\.json: no such file"),
        (lambda folder: (folder / "model.safetensors").unlink(), "no model.safetensors"),
        (cut("model.safetensors"), r"model\.safetensors cannot be loaded"),
        (break_weights(lambda w: w.pop("visual_projection.weight")), r"lacks visual_projection\.weight"),
        (break_weights(lambda w: w["visual_projection.weight"].fill_(torch.nan)), "visual_projection.weight has"),
        (
            rewrite_json("config.json", projection_dim=32),
            r"model\.safetensors: visual_projection\.weight is \[64, 128\]",
        ),
        (
            rewrite_json("config.json", vision_config={"hidden_size": "x"}),
            r"config\.json cannot be loaded: .*hidden_size",
        ),
    ],
)
def test_broken_clip_is_refused_naming_the_file(spoil: Callable[[Path], object], said: str, copy: Path) -> None:
    spoil(copy)
    with pytest.raises(ArtefactError, match=said) as caught:
        load_clip(copy)
    assert "\n" not in str(caught.value)


def change_state(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def changed(folder: Path) -> None:
        state = torch.load(folder / "model.pt")
        change(state)
        torch.save(state, folder / "model.pt")

    return changed


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: (folder / "args.json").unlink(), r"args\.json: no such file"),
        (cut("args.json"), r"args\.json cannot be read"),
        (rewrite_json("args.json", lr=1), r"args\.json has the keys"),
        (rewrite_json("args.json", hidden_dim="32"), "hidden_dim is '32'"),
        (rewrite_json("args.json", num_classes=True), "num_classes is True"),
        (rewrite_json("args.json", hidden_dim=10**9), r"model\.pt: fc1\.weight is \[32, 64\]"),
        (rewrite_json("args.json", dropout_p=1.5), "dropout_p is 1.5"),
        (lambda folder: (folder / "model.pt").unlink(), r"model\.pt: no such file"),
        (cut("model.pt"), r"model\.pt cannot be loaded"),
        (lambda folder: torch.save([1], folder / "model.pt"), r"model\.pt is not a state dict"),
        (lambda folder: torch.save(HeadArguments(1, 1, 0, 1), folder / "model.pt"), r"model\.pt cannot be loaded"),
        (change_state(lambda state: state.pop("fc2.bias")), "has the tensors"),
        (change_state(lambda state: state["fc2.bias"].fill_(torch.inf)), "fc2.bias has values that are not finite"),
        (rewrite_json("class_to_label.json", pug=3), "the labels are not the numbers 0 to 2"),
        (rewrite_json("class_to_label.json", corgi=1), "the labels are not the numbers 0 to 2"),
        (rewrite_json("class_to_label.json", corgi=2.0), "the labels are not the numbers 0 to 2"),
        (rewrite_json("clip.json", dim="many"), r"clip\.json cannot be used"),
    ],
)
def test_broken_head_is_refused_naming_the_file(
    spoil: Callable[[Path], object], said: str, clip: Clip, tmp_path: Path
) -> None:
    make_head(tmp_path, clip.mark(True))
    spoil(tmp_path)
    with pytest.raises(ArtefactError, match=said) as caught:
        load_head(tmp_path)
    assert "\n" not in str(caught.value)


def test_pickled_code_in_a_head_never_runs(clip: Clip, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "trapped",))

    make_head(tmp_path, clip.mark(True))
    torch.save({"fc1.weight": Trap()}, tmp_path / "model.pt")
    with pytest.raises(ArtefactError, match=r"model\.pt"):
        load_head(tmp_path)
    assert not (tmp_path / "trapped").exists()


def test_head_of_another_clip_is_refused_naming_both(clip_dir: Path, clip: Clip, tmp_path: Path) -> None:
    make_head(tmp_path, replace(clip.mark(True), fingerprint="0123456789abcdef", name="openai/other"))
    for allow_unmarked in (False, True):
        with pytest.raises(ArtefactError) as caught:
            load(tmp_path, clip=str(clip_dir), allow_unmarked=allow_unmarked)
        for part in ("0123456789abcdef", "openai/other", clip.fingerprint, clip.name):
            assert part in str(caught.value)


def test_unmarked_head_needs_leave_and_the_same_dimension(clip_dir: Path, tmp_path: Path) -> None:
    fits, other = make_head(tmp_path / "fits", None), make_head(tmp_path / "other", None, dim=48)
    with pytest.raises(ArtefactError, match="--allow_unmarked"):
        load(tmp_path, clip=str(clip_dir), head_dir=fits)
    assert load(tmp_path, clip=str(clip_dir), head_dir=fits, allow_unmarked=True).classes == CLASSES
    with pytest.raises(ArtefactError, match=r"takes embeddings of 48 numbers, but the CLIP .* makes 64"):
        load(tmp_path, clip=str(clip_dir), head_dir=other, allow_unmarked=True)


def test_empty_head_folder_is_an_error_not_a_service_without_classes(copy: Path) -> None:
    (copy.parent / "head").mkdir()
    with pytest.raises(ArtefactError, match=r"head/args\.json: no such file"):
        load(copy.parent)


def test_gpu_that_is_not_there_is_a_wrong_setting(clip_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SettingError, match="no GPU"):
        load(clip_dir.parent, computing=Computing("cuda"))
    assert load(clip_dir.parent, computing=Computing("auto")).device == torch.device("cpu")


def test_directory_never_touches_the_network(clip_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the network was touched")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    load(Path("/nowhere"), clip=str(clip_dir))


@pytest.fixture
def silent_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A hub that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setattr(hub, "_HUB_SECONDS", 0.3)
        yield


@pytest.mark.usefixtures("silent_hub")
def test_model_id_is_taken_from_the_cache_or_fails_soon(clip_dir: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "models--acme--clip" / "snapshots" / "c0ffee"
    shutil.copytree(clip_dir, snapshot)
    (snapshot.parent.parent / "refs").mkdir()
    (snapshot.parent.parent / "refs" / "main").write_text("c0ffee")
    engine = load(Path("/nowhere"), clip="acme/clip", cache_dir=tmp_path)
    assert engine.clip.name == "acme/clip"
    with pytest.raises(ArtefactError, match="acme/other is not in the local Hugging Face cache"):
        load(Path("/nowhere"), clip="acme/other", cache_dir=tmp_path)
    (snapshot / "model.safetensors").unlink()  # a download that was broken off
    with pytest.raises(ArtefactError, match="acme/clip is not in the local Hugging Face cache"):
        load(Path("/nowhere"), clip="acme/clip", cache_dir=tmp_path)


@pytest.mark.parametrize("name", ["/nowhere/clip", "./clip", "models/of/clip", "not a name"])
def test_mistyped_directory_is_named(name: str) -> None:
    with pytest.raises(ArtefactError, match=f"{name}.*director"):
        load(Path("/nowhere"), clip=name)


def test_missing_clip_in_the_model_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match="clip: no such directory"):
        load(tmp_path)
