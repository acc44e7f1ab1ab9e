"""What each environment does without: torch in the transformer and in the CPU predictor, KServe in offline programs."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from launch import LOOPBACK
from tests.conftest import LOOPBACK_ONLY, Service
from workshop import Workshop

ROOT = Path(__file__).parents[2]
WITHOUT_TORCH = ("torch", "transformers", "mlflow", "safetensors", "huggingface_hub", "onnx", "onnxscript")
BLOCK = """
import importlib.machinery, os

class Refuse:
    def create_module(self, spec): return None
    def exec_module(self, module): raise ImportError(f"{module.__name__} must not be imported here")

find = importlib.machinery.PathFinder.find_spec
hidden, refused = (set(os.environ[name].split()) for name in ("TEST_HIDDEN", "TEST_REFUSED"))

def find_spec(name, path=None, target=None):
    spec = None if name in hidden else find(name, path, target)
    if spec and name in refused:
        spec.loader = Refuse()
    return spec

importlib.machinery.PathFinder.find_spec = find_spec
"""
# Runs in the environment that is tried: starts a server, says where, and stops it when its own input ends.
DRIVER = """
import sys
from pathlib import Path
from launch import running
with running(sys.argv[1], sys.argv[3:], Path(sys.argv[2])) as server:
    print(server.http, server.grpc, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def block(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for PYTHONPATH whose sitecustomize hides the packages in TEST_HIDDEN and breaks those in TEST_REFUSED.

    A hidden package is not there at all; a refused one can be found, which runs nothing of it, but not be imported.
    """
    folder = tmp_path_factory.mktemp("block")
    (folder / "sitecustomize.py").write_text(BLOCK)
    return folder


def without(block: Path, *hidden: str, refused: str = "") -> dict[str, str]:
    return {"PYTHONPATH": str(block), "TEST_HIDDEN": " ".join(hidden), "TEST_REFUSED": refused}


def run(arguments: Sequence[str], environ: Mapping[str, str], python: str = sys.executable) -> str:
    """Run a program in the project's folder; its output."""
    done = subprocess.run(
        [python, *arguments], env={**os.environ, **environ}, cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@contextmanager
def serving(
    module: str, flags: Sequence[str], log: Path, environ: Mapping[str, str], python: str = sys.executable
) -> Iterator[tuple[str, str]]:
    """A server in another environment; yields its addresses of HTTP and gRPC."""
    process = subprocess.Popen(
        [python, "-c", DRIVER, module, str(log), *flags],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **environ}, cwd=ROOT,
    )  # fmt: skip
    assert process.stdin and process.stdout
    try:
        addresses = process.stdout.readline().split()
        assert addresses, log.read_text()
        yield addresses[0], addresses[1]
    finally:
        process.stdin.close()
        process.wait(60)


@pytest.fixture(scope="module")
def exported(workshop: Workshop, block: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export, made where KServe cannot be imported."""
    output = tmp_path_factory.mktemp("exports") / "v1"
    flags = ["--model_dir", str(workshop.model), "--output", str(output), "--precision", "fp32"]
    said = run(["-m", "predictor.export", *flags], without(block, "kserve"))
    assert said.splitlines()[-1] == f"fp32 exported to {output}"
    return output


def ask(http: str, url: str) -> Any:
    answer = httpx.post(f"http://{http}/predict/", json={"url": url, "k": 3, "n": 4}, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()


def check_answers(service: Service, http: str) -> None:
    """The same classes and the same pictures as from torch."""
    for path in service.held_out[:3]:
        url = service.picture_url(path)
        given, wanted = ask(http, url), ask(service.transformer.http, url)
        assert given["probabilities"] == pytest.approx(wanted["probabilities"], abs=1e-4)
        assert [match["path"] for match in given["top_matches"]] == [match["path"] for match in wanted["top_matches"]]
        assert [match["similarity"] for match in given["top_matches"]] == pytest.approx(
            [match["similarity"] for match in wanted["top_matches"]], abs=1e-4
        )


def test_both_servers_answer_without_torch(service: Service, exported: Path, block: Path, tmp_path: Path) -> None:
    environ = without(block, *WITHOUT_TORCH)
    with ExitStack() as stack:
        flags = ["--model_dir", str(exported), "--engine", "openvino"]
        http, _ = stack.enter_context(serving("predictor", flags, tmp_path / "predictor.log", environ))
        flags = ["--predictor_host", http, "--index_dir", str(service.workshop.index), *LOOPBACK_ONLY]
        http, _ = stack.enter_context(serving("transformer", flags, tmp_path / "transformer.log", environ))
        check_answers(service, http)


def test_without_torch_the_torch_engine_says_so(workshop: Workshop, block: Path) -> None:
    command = [sys.executable, "-m", "predictor", "--model_dir", str(workshop.model), "--host", LOOPBACK]
    ports = [f"--{name}_port=0" for name in ("http", "grpc", "metrics")]
    environ = {**os.environ, **without(block, *WITHOUT_TORCH)}
    done = subprocess.run([*command, *ports], env=environ, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: --engine torch: this environment has no torch")


def test_every_module_of_the_transformer_can_be_imported_without_torch(block: Path) -> None:
    script = """
import importlib, pkgutil, transformer
names = [module.name for module in pkgutil.walk_packages(transformer.__path__, "transformer.")]
for name in names:
    if name != "transformer.__main__":
        importlib.import_module(name)
print(*names)
"""
    names = run(["-c", script], without(block, *WITHOUT_TORCH)).split()
    assert {"transformer.embed", "transformer.server", "transformer.search"} <= set(names)


def test_embed_runs_without_torch_and_without_importing_kserve(
    workshop: Workshop, service: Service, block: Path, tmp_path: Path
) -> None:
    breed = min(workshop.asked.iterdir())
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / breed.name).symlink_to(breed)
    # It borrows one generated file from KServe without importing it, which takes seconds.
    environ = without(block, *WITHOUT_TORCH, refused="kserve")
    flags = ["--predictor_host", service.predictor.http, "--output", str(tmp_path / "index"), "--clip_name", "sample"]
    run(["-m", "transformer.embed", str(tmp_path / "images"), *flags], environ)
    assert list((tmp_path / "index").glob("*.parquet"))


def test_train_runs_without_kserve(workshop: Workshop, block: Path, tmp_path: Path) -> None:
    flags = ["--embeddings", str(workshop.index), "--mlflow_uri", f"sqlite:///{tmp_path / 'mlflow.db'}"]
    said = run(["-m", "predictor.train", *flags, "--epochs", "2"], without(block, "kserve"))
    assert "reference=models:/doggos/1" in said


def test_what_is_blocked_cannot_be_imported(block: Path) -> None:
    """The control: without it the tests above could pass with nothing blocked."""
    script = """
import importlib.util
def kind(name):
    try: __import__(name)
    except ImportError as error: return type(error).__name__
print(kind("torch"), kind("kserve"), importlib.util.find_spec("torch"), bool(importlib.util.find_spec("kserve")))
"""
    said = run(["-c", script], without(block, "torch", refused="kserve"))
    assert said.split() == ["ModuleNotFoundError", "ImportError", "None", "True"]


@pytest.fixture(scope="module")
def venvs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, Path]]:
    """Both environments of machines without a GPU, installed from their files by one pip command each."""
    folder = tmp_path_factory.mktemp("venvs")
    for name in ("transformer", "predictor-cpu"):
        subprocess.run([sys.executable, "-m", "venv", folder / name], check=True, timeout=300)
        install = ["-m", "pip", "install", "--quiet", "-r", f"requirements/{name}.txt"]
        run(install, {}, str(folder / name / "bin" / "python"))
    yield {name: folder / name for name in ("transformer", "predictor-cpu")}
    shutil.rmtree(folder)  # more than a gigabyte, which pytest would keep for the next runs


@pytest.mark.environments
def test_the_compiled_environments_serve(
    service: Service, exported: Path, venvs: Mapping[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Downloads a few hundred MB and takes minutes, which is why it runs only when asked for: -m environments."""
    pythons = {name: str(folder / "bin" / "python") for name, folder in venvs.items()}
    for name, folder in venvs.items():
        assert "No broken requirements" in run(["-m", "pip", "check"], {}, pythons[name])
        installed = {
            one["name"] for one in json.loads(run(["-m", "pip", "list", "--format", "json"], {}, pythons[name]))
        }
        assert "kserve" in installed and not installed & {"torch", "transformers", "mlflow", "onnx"}
        with capsys.disabled():
            print(f"\n{name}: {_megabytes(folder):.0f} MB installed, {len(installed)} packages")
    nothing = {"PYTHONPATH": ""}
    with ExitStack() as stack:
        flags = ["--model_dir", str(exported)]
        log = tmp_path / "predictor.log"
        http, _ = stack.enter_context(serving("predictor", flags, log, nothing, pythons["predictor-cpu"]))
        flags = ["--predictor_host", http, "--index_dir", str(service.workshop.index), *LOOPBACK_ONLY]
        log = tmp_path / "transformer.log"
        http, _ = stack.enter_context(serving("transformer", flags, log, nothing, pythons["transformer"]))
        check_answers(service, http)


def _megabytes(folder: Path) -> float:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
