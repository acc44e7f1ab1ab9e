"""Predictor and transformer in one process, for notebooks, scripts and tests: the servers' answers without servers."""

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from contract import Pixels, Prediction
from predictor.engine import Engine
from predictor.settings import PredictorSettings
from serving.call import Call
from serving.deadline import Deadline
from serving.errors import OutOfRange
from serving.metrics import TransformerMetrics
from transformer.answer import Query
from transformer.decode_pool import DecodeMemory, DecodePool
from transformer.download import Downloader, FetchLimits
from transformer.limits import PictureLimits
from transformer.pipeline import Pipeline
from transformer.search import Match, load_index
from transformer.settings import parse_networks

URLS = ("http://", "https://", "data:")


@dataclass(frozen=True)
class Answer:
    """What `/predict/` answers: class to probability, in label order, and the matches, best first."""

    probabilities: dict[str, float]
    matches: list[Match]


class Doggos:
    """Says of which class a picture is, and which pictures of the index look like it."""

    def __init__(
        self, model_dir: str | Path, index_dir: str | Path, *, allow_unmarked: bool = False, allow_networks: str = ""
    ) -> None:
        """The arguments are the servers' settings of the same names; raises ArtefactError or SettingError."""
        engine = load_engine(PredictorSettings(model_dir=str(model_dir), allow_unmarked=allow_unmarked))
        index = load_index(str(index_dir), allow_unmarked=allow_unmarked)
        self._networks = parse_networks(allow_networks)
        pool, metrics = DecodePool("decode", 1, 1, DecodeMemory(sys.maxsize)), TransformerMetrics()
        self._pipeline = Pipeline(index, _InProcess(engine), self._fetch, pool, engine.size, PictureLimits(), metrics)
        # An event loop of our own, as a notebook runs one already; always in one thread, as torch keeps some for each.
        self._thread, self._loop = ThreadPoolExecutor(1, "doggos"), asyncio.Runner()

    def ask(self, picture: str | Path | bytes, k: int = 4, n: int = 5) -> Answer:
        """The `n` pictures most like this one (path, URL or encoded bytes) among its `k` most probable classes.

        Raises OSError for a file, and what the service would answer as a ServiceError.
        """
        if k < 1 or n < 1:
            raise OutOfRange("k, the number of classes, and n, the number of similar pictures, must be 1 or more")
        if isinstance(picture, Path) or (isinstance(picture, str) and not picture.lower().startswith(URLS)):
            picture = Path(picture).read_bytes()
        return self._thread.submit(self._loop.run, self._answer(Query(picture, k, n))).result()

    async def _answer(self, query: Query) -> Answer:
        answer = await self._pipeline.answer([query], Call(Deadline.after(60)))
        return Answer(dict(zip(answer.classes, answer.probabilities[0].tolist(), strict=True)), list(answer.matches[0]))

    async def _fetch(self, url: str, deadline: Deadline) -> bytes:
        downloader = Downloader(FetchLimits(), allow_networks=self._networks)  # one event loop's, so one call's
        try:
            return await downloader.fetch(url, deadline)
        finally:
            await downloader.close()


@dataclass(frozen=True)
class _InProcess:
    engine: Engine

    async def predict(self, pixels: Pixels, call: Call) -> Prediction:
        return self.engine.predict(pixels)


def load_engine(settings: PredictorSettings) -> Engine:
    """The engine that `python -m predictor` would choose; each environment has its own engine's libraries only."""
    if settings.choose_engine() == "openvino":
        from predictor import openvino

        return openvino.load_engine(Path(settings.model_dir), settings.cpu_threads)
    from predictor.source import open_source

    with open_source(settings, settings.cpu_threads, settings.computing) as source:
        return source.engine
