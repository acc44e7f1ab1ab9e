"""One run of the embedding program: from settings and a list to parts in a folder."""

import asyncio
import sys
from collections.abc import AsyncIterator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from contract import ClipMark
from serving.errors import ArtefactError
from transformer.batches import BatchEmbedder, EmbeddedBatch, check_embeddings, cut_batches, run_in_order
from transformer.channel import open_channel
from transformer.download import Downloader, FetchLimits
from transformer.embed_settings import EmbedSettings
from transformer.limits import PictureLimits
from transformer.parts import Part, PartFolder
from transformer.patience import PatientPredictor
from transformer.picture_list import Extent, PictureList, Row
from transformer.picture_reader import PictureReader
from transformer.plan import Plan


@dataclass(frozen=True)
class Summary:
    """What a shard's parts hold at the end of a run."""

    parts: int
    embedded: int
    skipped: int
    found: int  # parts that were there at the start
    first_reason: str  # why the first skipped picture was


async def embed(settings: EmbedSettings, pictures: PictureList, extent: Extent) -> Summary:
    """Embed what the output folder does not have yet; raises ArtefactError, or NotReady when patience is at an end."""
    async with AsyncExitStack() as stack:
        channel = open_channel(settings.predictor_host, settings.predictor_protocol, settings.predictor_model_name)
        stack.push_async_callback(channel.close)
        predictor = PatientPredictor(
            channel, settings.predictor_concurrency, settings.request_timeout, settings.predictor_timeout, _say
        )
        size = await predictor.ask(channel.read_size)
        mark = await _read_mark(settings, predictor, size)
        folder = PartFolder(Path(settings.output), Plan(extent, settings.rows_per_part, mark))
        embedder = BatchEmbedder(_open_reader(settings, pictures.root, size, stack), predictor, mark.fingerprint)
        return await _embed_shard(settings, pictures, folder, embedder)


async def _read_mark(settings: EmbedSettings, predictor: PatientPredictor, size: int) -> ClipMark:
    """The mark of the predictor's CLIP, from its answer to a grey picture."""
    prediction = await predictor.predict(np.full((1, size, size, 3), 128, np.uint8))
    check_embeddings(prediction)
    dim = prediction.embedding.shape[1]
    return ClipMark(prediction.info.fingerprint, settings.clip_name, dim, settings.exif_orientation)


def _open_reader(settings: EmbedSettings, root: Path, size: int, stack: AsyncExitStack) -> PictureReader:
    fetches = settings.fetch_concurrency
    patience = settings.fetch_timeout  # nobody waits for one picture, so a host may be silent as long as it likes
    limits = FetchLimits(settings.max_picture_bytes, read_timeout=patience, total_timeout=patience, connections=fetches)
    downloader = Downloader(limits, allow_networks=settings.allow_networks)
    stack.push_async_callback(downloader.close)
    threads = ThreadPoolExecutor(settings.decode_threads, "decode")
    stack.callback(threads.shutdown, wait=False, cancel_futures=True)
    decodable = PictureLimits(settings.max_picture_bytes, settings.max_picture_pixels)
    return PictureReader(root, downloader.fetch, fetches, threads, size, settings.exif_orientation, decodable)


async def _embed_shard(
    settings: EmbedSettings, pictures: Iterable[Row], folder: PartFolder, embedder: BatchEmbedder
) -> Summary:
    plan, shard = folder.plan, settings.shard
    mine = range(shard.index, plan.parts, shard.count)
    found = [part for part in mine if folder.read_counts(part)]
    wanted = set(mine).difference(found)
    window = settings.window(plan.pictures.urls > 0)
    if wanted:
        batches = cut_batches(pictures, plan, wanted, settings.batch_size)
        done = sum(plan.size(part) for part in found)
        with open_bar("embed", "pictures", total=sum(map(plan.size, mine)), initial=done) as bar:
            async with aclosing(run_in_order(batches, embedder.embed, window)) as embedded:
                await _write_parts(embedded, folder, bar)
    return _summarise(folder, mine, len(found))


async def _write_parts(embedded: AsyncIterator[EmbeddedBatch], folder: PartFolder, bar: "tqdm[Any]") -> None:
    part, skipped = Part(-1), 0
    async for batch in embedded:
        part = part if part.number == batch.part else Part(batch.part)
        part.rows.extend(batch.rows)
        part.embeddings.extend(batch.embeddings)
        part.skipped.extend(batch.skipped)
        if part.counts.done == folder.plan.size(part.number):
            await asyncio.to_thread(folder.write, part)
        skipped += len(batch.skipped)
        bar.set_postfix({"skipped": skipped} if skipped else {}, refresh=False)
        bar.update(len(batch.rows) + len(batch.skipped))


def _summarise(folder: PartFolder, mine: Iterable[int], found: int) -> Summary:
    """Count what is in the files, which is what the next run and the index will see."""
    counts = {part: folder.read_counts(part) for part in mine}
    complete = {part: count for part, count in counts.items() if count}
    if len(complete) < len(counts):
        raise ArtefactError("the list of pictures became shorter while it was read; run the same command again")
    first = next((folder.read_skipped(part)[0][-1] for part, count in complete.items() if count.skipped), "")
    embedded, skipped = (sum(column) for column in zip(*complete.values(), strict=True)) if complete else (0, 0)
    return Summary(len(complete), embedded, skipped, found, first)


def open_bar(title: str, unit: str, total: int | None = None, initial: int = 0, leave: bool = True) -> "tqdm[Any]":
    """A progress bar with rate and time left; now and then a line of it where nobody watches."""
    pause = 0.2 if sys.stderr.isatty() else 10.0
    return tqdm(desc=title, unit=f" {unit}", total=total, initial=initial, leave=leave, mininterval=pause)


def _say(sentence: str) -> None:
    tqdm.write(sentence, file=sys.stderr)
