"""The demo's folder: pictures, CLIP, embeddings, head, each made once by the programs that a user runs."""

import hashlib
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from launch import running
from serving.errors import ArtefactError, SettingError

EXPERIMENT = "doggos"
REFERENCE = f"models:/{EXPERIMENT}@champion"


class Workshop:
    """The demo's folder, and how each thing in it is made. What is there already is not made again."""

    def __init__(self, folder: str, clip: str = "", images: str = "") -> None:
        """`clip` and `images` are the user's own, or empty: then they are made here."""
        self._clip, self._own_images = clip, images
        inputs = (clip, images, *_list_own(images))
        key = hashlib.sha256("\0".join(inputs).encode(errors="surrogateescape")).hexdigest()[:12]
        self.root = Path(folder, key).resolve()
        self.images = Path(images).resolve() if images else self.root / "images"
        self.asked = self.images if images else self.root / "held_out"
        self.model, self.index = self.root / "model", self.root / "index"

    @property
    def mlflow_uri(self) -> str:
        return f"sqlite:///{self.root / 'mlflow.db'}"

    def draw(self) -> None:
        """The pictures and the CLIP that the user did not bring."""
        from sample import draw_pictures, make_clip

        if not self._own_images:
            self._make(self.images, lambda folder: draw_pictures(folder, seed=0))
            self._make(self.asked, lambda folder: draw_pictures(folder, pictures_per_class=2, seed=1))
        if not self._clip:
            self._make(self.root / "clip", make_clip)
        self._link_clip()

    def _link_clip(self) -> None:
        """Put the CLIP where the predictor looks for it."""
        from predictor.hub import find_clip

        target = find_clip(self._clip) if self._clip else self.root / "clip"
        self.model.mkdir(parents=True, exist_ok=True)
        link = self.model / "clip"
        if not link.exists():
            link.symlink_to(target.resolve(), target_is_directory=True)

    def embed(self) -> None:
        """Embed every picture with a predictor that has no head yet."""
        self._make(self.index, self._embed)

    def _embed(self, folder: Path) -> None:
        bare = self.root / "bare"
        bare.mkdir(exist_ok=True)
        clip = bare / "clip"
        if not clip.exists():
            clip.symlink_to((self.model / "clip").resolve(), target_is_directory=True)
        with running("predictor", ["--model_dir", str(bare)], self.root / "embed.log") as predictor:
            name = self._clip or "sample"
            flags = ["--predictor_host", predictor.http, "--output", str(folder), "--clip_name", name]
            _run("transformer.embed", str(self.images), *flags)

    def train(self) -> None:
        """Train the head, and fetch the registered champion into the model's folder."""
        self._make(self.model / "head", self._train)

    def _train(self, folder: Path) -> None:
        from predictor.registry import fetch_head

        store = ["--mlflow_uri", self.mlflow_uri, "--mlflow_experiment", EXPERIMENT]
        _run("predictor.train", "--embeddings", str(self.index), *store)
        fetch_head(self.mlflow_uri, REFERENCE, folder)

    def _make(self, target: Path, build: Callable[[Path], None]) -> None:
        """Build under another name first, so that an interrupted demo leaves nothing half made."""
        if target.exists():
            return
        draft = target.with_name(target.name + ".draft")
        shutil.rmtree(draft, ignore_errors=True)
        build(draft)
        draft.rename(target)

    def pick(self) -> str:
        """A picture to ask about, as a path below `asked`."""
        from transformer.picture_list import find_pictures

        return random.Random(7).choice(find_pictures(self.asked))  # noqa: S311


def _run(module: str, *arguments: str) -> None:
    """Run one of our programs; its progress is shown, its other output goes to standard error too."""
    done = subprocess.run([sys.executable, "-m", module, *arguments], stdout=sys.stderr, check=False)  # noqa: S603
    if done.returncode:
        raise ArtefactError(f"python -m {module} ended with exit code {done.returncode}: see above")


def check_images(images: str) -> None:
    """Before minutes of work: a folder that was named must hold what is asked for."""
    if images and not Path(images).is_dir():
        raise SettingError(f"IMAGES: {images!r} is not a folder")
    if images and len({path.split("/")[0] for path in _list_own(images)}) < 2:
        raise SettingError(f"IMAGES: {images!r} has one class only; a head needs two or more")


def _list_own(images: str) -> list[str]:
    """Path and age of every picture of the user's own, so that other pictures are another demo; raises for none."""
    from transformer.picture_list import find_pictures

    folder = Path(images)
    return [f"{path} {(folder / path).stat().st_mtime_ns}" for path in find_pictures(folder)] if images else []
