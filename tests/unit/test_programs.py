"""All programs explain themselves in plain words, and end with one sentence when something is wrong."""

import dataclasses
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

import demo
from launch import FREE_PORTS, StartError, start_server
from predictor import __main__ as predictor
from predictor import export, train
from predictor.export_settings import ExportSettings
from predictor.settings import PredictorSettings
from serving.errors import ArtefactError, SettingError
from serving.program import run_program
from transformer import __main__ as transformer
from transformer import embed
from transformer.embed_settings import EmbedSettings
from transformer.settings import TransformerSettings

Main = Callable[[Sequence[str], Mapping[str, str]], None]
PROGRAMS: dict[str, tuple[Main, Any]] = {
    "predictor": (predictor.main, PredictorSettings),
    "predictor.train": (train.main, train.TrainSettings),
    "predictor.export": (export.main, ExportSettings),
    "transformer": (transformer.main, TransformerSettings),
    "transformer.embed": (embed.main, EmbedSettings),
}


@pytest.mark.parametrize("module", PROGRAMS)
def test_help_says_what_every_setting_does_and_nothing_of_what_has_no_effect(
    module: str, capsys: pytest.CaptureFixture[str]
) -> None:
    main, settings = PROGRAMS[module]
    with pytest.raises(SystemExit) as ended:
        main(["--help"], {})
    assert ended.value.code == 0
    said, errors = capsys.readouterr()
    assert errors == ""
    first, empty, purpose, *_ = said.splitlines()
    assert first.startswith(f"usage: python -m {module} ") and first.endswith("[--FLAG VALUE ...]") and not empty
    assert purpose == settings.__doc__.splitlines()[0]
    words = " ".join(said.split())
    for field in dataclasses.fields(settings):
        name = field.name.upper() if field.metadata["positional"] else f"--{field.name} VALUE"
        assert f"{name} {' '.join(field.metadata['help'].split())}" in words
    flags = {word for word in words.split() if word.startswith("--")} - {"--help", "--FLAG"}
    assert flags >= {f"--{f.name}" for f in dataclasses.fields(settings) if not f.metadata["positional"]}
    assert not {"--workers", "--ssl_keyfile", "--enable_grpc"} & flags  # KServe's, which would do nothing


def folder_with_file(folder: Path) -> str:
    (folder / "thing").write_text("no folder")
    return str(folder / "thing")


EMBED = ("--predictor_host", "127.0.0.1:9", "--output")
STORE = ("--mlflow_uri", "sqlite:///unused.db")
WRONG: dict[str, tuple[str, int, str, Callable[[Path], Sequence[str]]]] = {
    "no list": ("transformer.embed", 2, "required: IMAGES", lambda _: []),
    "unknown flag": ("transformer.embed", 2, "unrecognized arguments: --speed (see", lambda _: ["x", "--speed", "9"]),
    "short flag": ("transformer.embed", 2, "unrecognized arguments: --out (see", lambda _: ["x", "--out", "x"]),
    "missing list": ("transformer.embed", 2, "nowhere' does not exist", lambda p: [f"{p}/nowhere", *EMBED, f"{p}/out"]),
    "odd list": ("transformer.embed", 2, "neither a folder nor", lambda p: [folder_with_file(p), *EMBED, f"{p}/out"]),
    "no embeddings": ("predictor.train", 2, "--embeddings is missing", lambda _: []),
    "no store": ("predictor.train", 2, "--mlflow_uri is missing", lambda _: ["--embeddings", "x"]),
    "odd share": ("predictor.train", 2, "--validation_share: '2' cannot", lambda _: ["--validation_share", "2"]),
    "missing embeddings": ("predictor.train", 1, "does not exist", lambda p: ["--embeddings", f"{p}/x", *STORE]),
    "odd embeddings": ("predictor.train", 1, "as Parquet", lambda p: ["--embeddings", folder_with_file(p), *STORE]),
    "no output": ("predictor.export", 2, "--output is missing", lambda _: []),
    "old output": ("predictor.export", 2, "is there already", lambda p: ["--output", str(p)]),
    "odd precision": ("predictor.export", 2, "use auto, fp32, bf16, fp16 or int8", lambda _: ["--precision", "int4"]),
    "no pictures": ("predictor.export", 2, "your own pictures", lambda _: ["--precision", "int8", "--output", "v1"]),
    "no model": ("predictor.export", 1, "no such", lambda p: ["--model_dir", str(p), "--output", str(p / "v1")]),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said_in_one_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module, code, sentence, flags = WRONG[name]
    monkeypatch.setattr(sys, "argv", [module, *flags(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        run_program(PROGRAMS[module][0])
    said = capsys.readouterr().err.splitlines()
    assert ended.value.code == code, said
    assert said[-1].startswith("error: ") and sentence in said[-1]
    assert len([line for line in said if line.startswith("error: ")]) == 1
    assert not [path for path in tmp_path.rglob("*") if path.name in ("out", "v1")]


@pytest.mark.parametrize(
    ("module", "code", "flags"),
    [
        ("transformer.embed", 2, ["nowhere", *EMBED, "out"]),
        ("predictor.export", 1, ["--model_dir", "nowhere", "--output", "out"]),
    ],
)
def test_as_a_process_it_says_nothing_else(module: str, code: int, flags: Sequence[str], tmp_path: Path) -> None:
    command, root = [sys.executable, "-m", module, *flags], str(Path(__file__).parents[2])
    done = subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": root}, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (code, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and "nowhere" in line
    assert list(tmp_path.iterdir()) == []


def test_the_demo_says_in_one_line_which_pictures_it_misses_and_that_a_server_did_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    demo_folder = {"DEMO_FOLDER": str(tmp_path / "demo")}
    with pytest.raises(SettingError, match=r"IMAGES: '.*nowhere' is not a folder"):
        demo.main([], {**demo_folder, "IMAGES": str(tmp_path / "nowhere")})
    with pytest.raises(ArtefactError, match="has no pictures; they are expected as <class>/<picture>"):
        demo.main([], {**demo_folder, "IMAGES": str(tmp_path)})
    assert list(tmp_path.iterdir()) == []

    def fail(workshop: demo.Workshop) -> None:
        raise StartError("python -m predictor was not ready")

    monkeypatch.setattr(demo.Workshop, "draw", fail)
    with pytest.raises(ArtefactError, match="python -m predictor was not ready"):
        demo.main([], demo_folder)


def test_a_server_that_is_never_ready_is_given_up_with_a_sentence(tmp_path: Path) -> None:
    log, flags = tmp_path / "log", ["--load_seconds", "60", *FREE_PORTS]
    with pytest.raises(StartError, match=r"python -m tests\.pretender was not ready within 2 s; its log is .*log"):
        start_server("tests.pretender", flags, log, timeout=2)
