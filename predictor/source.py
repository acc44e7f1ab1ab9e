"""From the settings that say which model is meant to a torch engine and the files it was made of."""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from predictor.hub import find_clip
from predictor.model import TorchEngine, find_head, load_engine
from predictor.registry import fetch_head, pin_reference
from predictor.settings import Computing, ModelSettings
from serving.errors import SettingError


@dataclass(frozen=True)
class Source:
    """A loaded model, and where it came from."""

    engine: TorchEngine
    clip: Path
    head: Path | None
    reference: str  # the head's pinned reference in MLflow; empty without one


@contextmanager
def open_source(settings: ModelSettings, threads: int, computing: Computing) -> Iterator[Source]:
    """The model that the settings mean; a head from MLflow is on this disk for the time of the block.

    Raises ArtefactError or SettingError.
    """
    with ExitStack() as stack:
        reference = settings.head_reference and pin_reference(settings.mlflow_uri, settings.head_reference)
        fetched = _fetch(settings, reference, stack) if reference else None
        engine = load_engine(
            Path(settings.model_dir),
            clip=settings.clip or None,
            head_dir=fetched,
            allow_unmarked=settings.allow_unmarked,
            threads=threads,
            computing=computing,
            cache_dir=settings.cache,
        )
        clip = find_clip(settings.clip or Path(settings.model_dir, "clip"), settings.cache)
        yield Source(engine, clip, fetched or find_head(Path(settings.model_dir)), reference)


def _fetch(settings: ModelSettings, reference: str, stack: ExitStack) -> Path:
    try:
        if settings.cache:
            settings.cache.mkdir(parents=True, exist_ok=True)
        folder = stack.enter_context(tempfile.TemporaryDirectory(dir=settings.cache, prefix="head-"))
    except OSError as error:
        raise SettingError(f"--cache_dir: nothing can be written to {error.filename}: {error.strerror}") from None
    return fetch_head(settings.mlflow_uri, reference, Path(folder, "head"))
