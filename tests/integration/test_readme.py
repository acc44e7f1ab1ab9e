"""Every command of the README is run, as a newcomer would run it."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from launch import LOOPBACK
from tests.conftest import Service
from workshop import Workshop

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
SERVE_PORTS = (8000, 8080, 8081, 8082)


def block_with(text: str) -> str:
    (block,) = [block for block in BLOCKS if text in block]
    return block


def environment(**more: str) -> dict[str, str]:
    """Ours, with this Python and this project first."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), **more}


def run(command: str, cwd: Path, **more: str) -> str:
    """Run a block in a shell."""
    shell = ["bash", "-euo", "pipefail", "-c", command]
    done = subprocess.run(shell, cwd=cwd, env=environment(**more), capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind((LOOPBACK, 0))
        return int(listener.getsockname()[1])


def is_free(port: int) -> bool:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


def test_every_block_has_a_test() -> None:
    tested = (
        *("make demo", "8080/predict/ -H", "image/jpeg", "/v2/models", "make test", "CLIP="),
        *("embed photos", "@champion \\", "index_dir", "export ", "model_dir exported", "helm upgrade"),
    )
    assert [block for block in BLOCKS if not any(text in block for text in tested)] == []


def test_demo_answers_and_says_what_is_next(workshop: Workshop) -> None:
    assert (ROOT / "README.md").read_text().splitlines().index("make demo") < 20
    output = run("make demo", ROOT, DEMO_FOLDER=str(workshop.root.parent))
    shown = re.search(r"```\n(\[1/4\].*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert shown
    for line in shown[1].splitlines():
        if not re.search(r"\d", line) or line.startswith("["):
            assert line in output, f"the README shows {line!r}, the demo does not"
    picture = re.search(r"http://127\.0\.0\.1:\d+/(\w+)/.*?most probable classes\n +(\w+) ", output, re.DOTALL)
    assert picture and picture[1] == picture[2], "the picture's own class is the most probable"
    assert output.split("What next")[1].count("make") >= 2


def test_serve_prints_a_curl_line_that_works(workshop: Workshop) -> None:
    busy = [port for port in SERVE_PORTS if not is_free(port)]
    if busy:
        pytest.skip(f"make serve listens on fixed ports, and {busy} are in use on this machine")
    environ = environment(DEMO_FOLDER=str(workshop.root.parent))
    serve = subprocess.Popen(["make", "serve"], cwd=ROOT, env=environ, stdout=subprocess.PIPE, text=True)
    try:
        assert serve.stdout
        line = next(line for line in serve.stdout if line.strip().startswith("curl"))
        assert len(json.loads(run(line, ROOT))["top_matches"]) == 5
        for text in ("8080/predict/ -H", "/v2/models"):
            answer = json.loads(run(block_with(text), ROOT))
            assert "error" not in answer, answer
    finally:
        os.kill(serve.pid, signal.SIGINT)
        children = subprocess.run(["pkill", "-INT", "-P", str(serve.pid)], check=False)
        assert children.returncode in (0, 1)
        serve.wait(60)
    assert all(is_free(port) for port in SERVE_PORTS), "something was left running"


def test_curl_lines(service: Service, tmp_path: Path) -> None:
    shutil.copy(service.held_out[0], tmp_path / "dog.jpg")
    for text in ("8080/predict/ -H", "image/jpeg", "/v2/models"):
        command = block_with(text).replace("http://127.0.0.1:8080", service.url)
        for line in command.replace("http://127.0.0.1:8000", service.pictures).split("\ncurl"):
            answer = json.loads(run(line if line.startswith("curl") else f"curl{line}", tmp_path))
            assert "top_matches" in answer or "outputs" in answer, answer


def test_make_targets_exist() -> None:
    for line in block_with("make test").splitlines():
        assert run(f"make -n {line.removeprefix('make ')}", ROOT).strip()


def test_own_pictures_and_clip(workshop: Workshop, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    for folder in sorted(workshop.images.iterdir())[:3]:
        shutil.copytree(folder, photos / folder.name)
    command = block_with("CLIP=").replace("openai/clip-vit-base-patch32", str(workshop.model / "clip"))
    output = run(
        f"cd {ROOT}; {command.replace('IMAGES=photos', f'IMAGES={photos}')}", tmp_path, DEMO_FOLDER=str(tmp_path)
    )
    assert "most similar pictures" in output


def test_step_by_step(workshop: Workshop, tmp_path: Path) -> None:
    shutil.copytree(workshop.model / "clip", tmp_path / "model" / "clip")
    for name, folder in zip(("first", "second"), sorted(workshop.images.iterdir()), strict=False):
        shutil.copytree(folder, tmp_path / "photos" / name)
    shutil.copy(tmp_path / "photos" / "first" / "000.jpg", tmp_path / "dog.jpg")
    ports = {name: str(free_port()) for name in ("9080", "9081", "9082")}

    def command_with(text: str) -> str:
        return re.sub("908[012]", lambda match: ports[match[0]], block_with(text)).strip()

    embedder, embed, train = command_with("embed photos").splitlines()
    with background(embedder, tmp_path):
        run(embed, tmp_path)
        run(train, tmp_path)
    run(command_with("export "), tmp_path)
    transformer = command_with("index_dir") + " --http_port 0 --grpc_port 0 --metrics_port 0"
    answers = []
    for predictor in (command_with("@champion \\"), command_with("model_dir exported")):
        with background(predictor, tmp_path), background(transformer, tmp_path) as url:
            answers.append(json.loads(run(f"curl -s {url}/predict/ -F file=@dog.jpg", tmp_path)))
    (notebook,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (tmp_path / "notebook.py").write_text(notebook)
    assert "Match(" in run("python notebook.py", tmp_path)
    assert set(answers[0]["probabilities"]) == {"first", "second"}
    torch, openvino = answers
    assert torch["top_matches"][0]["path"] == openvino["top_matches"][0]["path"] == "first/000.jpg"
    assert torch["probabilities"] == pytest.approx(openvino["probabilities"], abs=0.05)  # it may compute in bf16


class background:  # noqa: N801
    """A server's command for the time of the block; gives its HTTP address."""

    def __init__(self, command: str, cwd: Path) -> None:
        with (cwd / "server.log").open("a") as log:
            self.process = subprocess.Popen(
                ["bash", "-c", f"exec {command} --drain_seconds 0"],
                cwd=cwd,
                env=environment(),
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def __enter__(self) -> str:
        assert self.process.stdout
        line = self.process.stdout.readline()
        assert line.startswith("ready "), line
        return "http://" + line.split()[1].removeprefix("http=").replace("0.0.0.0", LOOPBACK)

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(60)
