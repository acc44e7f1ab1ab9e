"""Batches of rows to embeddings: several under way, results in order, a bounded number of pictures in memory."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import numpy as np

from contract import Floats, Pixels, Prediction
from serving.errors import ArtefactError, ServiceError
from transformer.compatibility import find_mismatch
from transformer.parts import Skipped
from transformer.patience import PatientPredictor
from transformer.picture_list import Row
from transformer.picture_reader import PictureReader
from transformer.plan import Plan

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Batch:
    """Rows that follow one another in one part."""

    part: int
    rows: Sequence[Row]


@dataclass(frozen=True)
class EmbeddedBatch:
    """What became of a batch."""

    part: int
    rows: Sequence[Row]  # m of them
    embeddings: Sequence[Floats]  # one array [m, D], or none when m is 0
    skipped: Sequence[Skipped]


def cut_batches(rows: Iterable[Row], plan: Plan, wanted: Set[int], size: int) -> Iterator[Batch]:
    """The batches of the wanted parts, in order; the rows of other parts are passed over."""
    remaining = iter(rows)
    for number in range(max(wanted, default=-1) + 1):
        part = islice(remaining, plan.size(number))
        if number not in wanted:
            deque(part, maxlen=0)
        while batch := tuple(islice(part, size)):
            yield Batch(number, batch)


async def run_in_order(
    items: Iterable[Item], work: Callable[[Item], Awaitable[Result]], window: int
) -> AsyncGenerator[Result, None]:
    """The results of `work` in the order of `items`, of which no more than `window` are under way."""
    under_way: deque[asyncio.Future[Result]] = deque()
    try:
        for item in items:
            under_way.append(asyncio.ensure_future(work(item)))
            if len(under_way) == window:
                yield await under_way.popleft()
        while under_way:
            yield await under_way.popleft()
    finally:
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)


class BatchEmbedder:
    """Reads the pictures of a batch at the same time, and sends those that can be read to the predictor."""

    def __init__(self, reader: PictureReader, predictor: PatientPredictor, fingerprint: str) -> None:
        self._reader, self._predictor, self._fingerprint = reader, predictor, fingerprint

    async def embed(self, batch: Batch) -> EmbeddedBatch:
        """Embed what can be; raises ArtefactError when the predictor's answer does not belong to this run."""
        pixels = await asyncio.gather(*(self._read(row) for row in batch.rows))
        outcomes = list(zip(batch.rows, pixels, strict=True))
        skipped = [Skipped(row, result) for row, result in outcomes if isinstance(result, ServiceError)]
        good = [(row, result) for row, result in outcomes if not isinstance(result, ServiceError)]
        embeddings = [await self._predict(np.stack([pixels for _, pixels in good]))] if good else []
        return EmbeddedBatch(batch.part, [row for row, _ in good], embeddings, skipped)

    async def _read(self, row: Row) -> Pixels | ServiceError:
        try:
            return await self._reader.read(row)
        except ServiceError as error:
            return error

    async def _predict(self, pixels: Pixels) -> Floats:
        """[m, S, S, 3] uint8 -> [m, D]."""
        prediction = await self._predictor.predict(pixels)
        check_embeddings(prediction)
        if prediction.info.fingerprint != self._fingerprint:
            raise ArtefactError(
                f"the predictor has changed its CLIP from {self._fingerprint} to {prediction.info.fingerprint} while "
                "this was running; serve the first one again to go on, or begin anew in another --output"
            )
        return prediction.embedding


def check_embeddings(prediction: Prediction) -> None:
    """Refuse a predictor that pictures are not prepared for, and embeddings that cannot be searched."""
    if mismatch := find_mismatch(prediction.info):
        raise ArtefactError(mismatch)
    if not np.isfinite(prediction.embedding).all():
        raise ArtefactError("the predictor gives embeddings with values that are not finite: its model is broken")
