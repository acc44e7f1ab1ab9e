"""Batches of fixed sizes: padded, cut and joined without a trace in the answers; compiled once and kept.

What only a GPU does (CUDA graphs, pinned memory, streams) is not run here.
"""

import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

import predictor.fixed_sizes
import predictor.model
from contract import Pixels
from predictor.fixed_sizes import FixedSizes, list_counts, list_warm_ups
from predictor.model import load_engine
from predictor.settings import Computing, PredictorSettings
from sample import make_clip
from serving.errors import SettingError

SIZE = 28


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small CLIP without a head."""
    folder = tmp_path_factory.mktemp("model")
    make_clip(folder / "clip", image_size=SIZE, patch_size=14)
    return folder


def draw(count: int) -> Pixels:
    return np.random.default_rng(count).integers(0, 256, (count, SIZE, SIZE, 3), np.uint8)


def test_sizes_are_powers_of_two_and_the_largest() -> None:
    assert list_counts(1) == [1]
    assert list_counts(8) == [1, 2, 4, 8]
    assert list_counts(12) == [1, 2, 4, 8, 12]
    assert list_warm_ups(8) == [1, 2, 4, 8] and list_warm_ups(96) == [1, 2, 4, 8, 16, 32, 64, 65, 66, 68, 72, 80, 96]
    assert len(list_counts(predictor.fixed_sizes.LARGEST)) <= torch._dynamo.config.recompile_limit


def test_every_batch_gets_its_own_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def forward(pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        seen.append(len(pixels))
        rows = pixels.reshape(len(pixels), -1).float()
        return rows[:, :5], rows.sum(1, keepdim=True)

    monkeypatch.setattr(predictor.fixed_sizes, "LARGEST", 4)
    fixed = FixedSizes(forward, SIZE, 16, torch.device("cpu"))
    for count in (3, 1, 4, 5, 16, 11, 2):
        pixels = draw(count)
        embedding, probabilities = fixed.predict(pixels)
        assert probabilities is not None
        np.testing.assert_array_equal(embedding, pixels.reshape(count, -1)[:, :5])
        np.testing.assert_array_equal(probabilities[:, 0], pixels.reshape(count, -1).sum(1))
    assert seen == [4, 1, 4, 4, 1, 4, 4, 4, 4, 4, 4, 4, 2]


def test_a_compiled_network_answers_the_same_and_is_compiled_once(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    wanted = load_engine(model, allow_unmarked=False, threads=None).predict(draw(2))
    made = []
    for _ in range(2):  # as two pods that have the folder in common
        torch._dynamo.reset()
        counters.clear()
        engine = load_engine(model, allow_unmarked=False, threads=None, computing=Computing(compile="on", max_batch=2))
        given = engine.predict(draw(2))
        assert engine.compiled
        np.testing.assert_allclose(given.embedding, wanted.embedding, atol=1e-4)
        made.append(dict(counters["inductor"]))
    assert made[0]["fxgraph_cache_miss"] == 1 and "fxgraph_cache_hit" not in made[0]
    assert made[1]["fxgraph_cache_hit"] == 1 and "fxgraph_cache_miss" not in made[1]


def test_later_engines_have_kernels_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one process compiled for earlier ones does not count: torch refuses to compile without end."""
    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    for size in (14, 28, 42):
        folder = tmp_path / str(size)
        make_clip(folder / "clip", image_size=size, patch_size=14)
        engine = load_engine(folder, allow_unmarked=False, threads=None, computing=Computing(compile="on", max_batch=8))
        for count in list_counts(8):
            assert len(engine.predict(np.zeros((count, size, size, 3), np.uint8)).embedding) == count


@pytest.mark.parametrize(("precision", "least"), [("bf16", 0.999), ("fp16", 0.9999)])
def test_a_reduced_precision_is_near_and_is_one(model: Path, precision: str, least: float) -> None:
    reference = load_engine(model, allow_unmarked=False, threads=None)
    engine = load_engine(model, allow_unmarked=False, threads=None, computing=Computing(precision=precision))
    wanted, given = reference.predict(draw(4)).embedding, engine.predict(draw(4)).embedding
    cosines = (given * wanted).sum(1) / np.linalg.norm(given, axis=1) / np.linalg.norm(wanted, axis=1)
    assert given.dtype == np.float32 and cosines.min() > least and not np.array_equal(given, wanted)
    assert engine.info == reference.info


def test_what_cannot_be_computed_is_refused(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "export.json").write_text("{}")
    for changes in ({"precision": "bf16"}, {"compile": "on"}):
        with pytest.raises(SettingError, match="the openvino engine serves what"):
            PredictorSettings(model_dir=str(tmp_path), **changes)  # type: ignore[arg-type]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    with pytest.raises(SettingError, match="--precision bf16: this GPU"):
        load_engine(model, allow_unmarked=False, threads=None, computing=Computing("cuda", "bf16"))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(SettingError, match="needs a C compiler"):
        predictor.model._choose_compiled("on", torch.device("cpu"))
    assert not predictor.model._choose_compiled("auto", torch.device("cuda"))
