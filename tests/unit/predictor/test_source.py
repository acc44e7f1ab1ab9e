"""The flags that say which model is meant: each combination, and the heads that they fetch."""

from pathlib import Path

import pytest

from predictor.exported import hash_file
from predictor.settings import ON_CPU, ModelSettings, PredictorSettings
from predictor.source import open_source
from serving.errors import ArtefactError, SettingError
from serving.settings import load_settings
from workshop import Workshop

STORE = ["--mlflow_uri", "sqlite:///x.db"]


def read(flags: list[str]) -> PredictorSettings:
    return load_settings(PredictorSettings, "python -m predictor", "PREDICTOR_", flags, {})


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--mlflow_experiment", "doggos"], "name the MLflow"),
        (STORE, "name a head there"),
        ([*STORE, "--mlflow_run", "a1", "--mlflow_model", "models:/a/1"], "--mlflow_model and --mlflow_run both"),
        ([*STORE, "--mlflow_model", "doggos"], "models:/NAME@ALIAS"),
        ([*STORE, "--mlflow_model", "models:/doggos"], "models:/NAME@ALIAS"),
        ([*STORE, "--mlflow_run", "models:/doggos/1"], "--mlflow_run"),
        ([*STORE, "--mlflow_run", "a1", "--engine", "openvino"], "--mlflow_uri: the openvino engine"),
        (["--model_dir", ""], "--model_dir"),
        (["--http_port", "9", "--grpc_port", "9"], "must differ"),  # the other half of the settings is checked too
    ],
)
def test_conflicting_and_incomplete_flags_are_refused(flags: list[str], sentence: str) -> None:
    with pytest.raises(SettingError, match=sentence):
        read(flags)


@pytest.mark.parametrize(
    ("flags", "reference"),
    [
        (["--mlflow_experiment", "my dogs"], "experiment:my dogs"),
        (["--mlflow_model", "models:/doggos@champion"], "models:/doggos@champion"),
        (["--mlflow_model", "models:/doggos/12"], "models:/doggos/12"),
        (["--mlflow_run", "75e3de67a20d4d11acec6bc082781c55"], "75e3de67a20d4d11acec6bc082781c55"),
    ],
)
def test_each_way_to_name_a_head(flags: list[str], reference: str) -> None:
    assert read([*STORE, *flags]).head_reference == reference


def test_auto_goes_by_the_folder_and_the_flags_only(tmp_path: Path) -> None:
    folder = ["--model_dir", str(tmp_path)]
    assert read(folder).choose_engine() == "torch"
    (tmp_path / "export.json").write_text("{}")
    assert read(folder).choose_engine() == "openvino"
    # Each of these is for torch.
    for flags in (["--engine", "torch"], ["--device", "cuda"], ["--clip", "a/b"], [*STORE, "--mlflow_run", "a1"]):
        assert read([*folder, *flags]).choose_engine() == "torch"


def test_a_head_of_mlflow_stands_in_for_the_folders(workshop: Workshop, tmp_path: Path) -> None:
    clip, cache = str(workshop.model / "clip"), tmp_path / "cache"
    elsewhere = ["--model_dir", str(tmp_path / "none"), "--clip", clip, "--cache_dir", str(cache)]
    wanted = hash_file(workshop.model / "head" / "model.pt")
    found = []
    for named in (
        ["--mlflow_experiment", "doggos"],
        ["--mlflow_model", "models:/doggos@champion"],
        ["--mlflow_model", "models:/doggos/1"],
    ):
        settings = read([*elsewhere, "--mlflow_uri", workshop.mlflow_uri, *named])
        with open_source(settings, threads=1, computing=ON_CPU) as source:
            assert source.head is not None and source.head.is_relative_to(cache)
            assert (hash_file(source.head / "model.pt"), source.clip) == (wanted, Path(clip))
            assert len(source.engine.classes) == 16
        assert list(cache.iterdir()) == [], "the head is removed once it is loaded"
        found.append(source.reference)
    run, *versions = found
    assert versions == ["models:/doggos/1"] * 2, "an alias is pinned"
    by_run = ModelSettings(model_dir=str(workshop.model), mlflow_uri=workshop.mlflow_uri, mlflow_run=run)
    with open_source(by_run, threads=1, computing=ON_CPU) as source:
        assert source.reference == run and source.head != workshop.model / "head"


def test_a_head_that_is_not_there_is_an_artefact_error(workshop: Workshop) -> None:
    settings = ModelSettings(
        model_dir=str(workshop.model), mlflow_uri=workshop.mlflow_uri, mlflow_model="models:/cats@best"
    )
    with pytest.raises(ArtefactError, match="cats"), open_source(settings, threads=1, computing=ON_CPU):
        pass


def test_a_cache_that_cannot_be_written_is_named(workshop: Workshop, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    settings = ModelSettings(
        model_dir=str(workshop.model),
        mlflow_uri=workshop.mlflow_uri,
        mlflow_model="models:/doggos@champion",
        cache_dir=str(tmp_path / "file" / "cache"),
    )
    with pytest.raises(SettingError, match="--cache_dir"), open_source(settings, threads=1, computing=ON_CPU):
        pass
