"""The models and the index that the cluster serves in tests, made by our own programs, and bad ones beside them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from sample import make_clip
from workshop import Workshop

ROOT = Path(__file__).parents[2]
WORK = ROOT / ".cluster"  # kept between runs
MODEL, INDEX = "model", "index"


def make_artefacts(folder: Path = WORK) -> Path:
    """A folder with model/{v1,v2,broken,other-clip} and index/v1; what is there already is not made again."""
    done = folder / "artefacts"
    if not done.exists():
        draft = folder / "artefacts.draft"
        shutil.rmtree(draft, ignore_errors=True)
        workshop = _work(Workshop(str(folder / "demo")))
        _export(workshop, draft / MODEL / "v1")
        _copy(draft / MODEL / "v1", draft / MODEL / "v2")
        _copy(draft / MODEL / "v1", draft / MODEL / "broken")
        network = draft / MODEL / "broken" / "onnx" / "model.onnx"
        network.write_bytes(network.read_bytes()[:-1])
        _export(_other(folder, workshop.images), draft / MODEL / "other-clip")
        _copy(workshop.index, draft / INDEX / "v1")
        _open(draft)
        draft.rename(done)
    return done


def _work(workshop: Workshop) -> Workshop:
    workshop.root.mkdir(parents=True, exist_ok=True)
    workshop.draw()
    workshop.embed()
    workshop.train()
    return workshop


def _other(folder: Path, images: Path) -> Workshop:
    """The same pictures, embedded by another CLIP."""
    clip = folder / "other-clip"
    if not clip.exists():
        make_clip(clip, seed=1)
    return _work(Workshop(str(folder / "demo"), str(clip), str(images)))


def _export(workshop: Workshop, output: Path) -> None:
    flags = ["--model_dir", str(workshop.model), "--output", str(output), "--precision", "fp32"]
    subprocess.run([sys.executable, "-m", "predictor.export", *flags], check=True, cwd=ROOT)


def _copy(source: Path, target: Path) -> None:
    shutil.copytree(source, target, symlinks=False)


def _open(folder: Path) -> None:
    """Let every user read: a pod is somebody else."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


if __name__ == "__main__":
    print(os.fspath(make_artefacts()))
