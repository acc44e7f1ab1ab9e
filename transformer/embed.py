"""`python -m transformer.embed`: many pictures to embeddings in Parquet, by way of a predictor."""

import asyncio
import signal
import sys
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from serving.errors import ArtefactError
from serving.program import run_program
from serving.settings import load_settings
from transformer.embed_run import Summary, embed, open_bar
from transformer.embed_settings import PREFIX, EmbedSettings
from transformer.parts import SKIPPED_FOLDER
from transformer.picture_list import Extent, PictureList, find_pictures, measure, open_picture_list

__all__ = ["find_pictures", "main"]

Result = TypeVar("Result")


def main(argv: Sequence[str], environ: Mapping[str, str]) -> None:
    """Read the settings and the list, embed, say what came of it."""
    settings = load_settings(EmbedSettings, "python -m transformer.embed", PREFIX, argv, environ)
    pictures = open_picture_list(settings.images, settings.image_root)
    extent = _measure(pictures)
    if not extent.rows:
        raise ArtefactError(f"{settings.images} has no pictures; a folder must hold <class>/<picture>")
    summary = asyncio.run(_run_until_signal(embed(settings, pictures, extent)))
    print(_describe(settings, summary))  # noqa: T201


def _measure(pictures: PictureList) -> Extent:
    with open_bar("list", "rows", leave=False) as bar:

        def counted() -> Iterator[Any]:
            for row in pictures:
                bar.update()
                yield row

        return measure(counted())


async def _run_until_signal(work: Coroutine[Any, Any, Result]) -> Result:
    """The result of `work`; SIGINT and SIGTERM end it at once, with the exit code that shells give them."""
    task = asyncio.ensure_future(work)
    received: list[int] = []

    def stop(number: int) -> None:
        received.append(number)
        task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop, number)
    try:
        return await task
    except asyncio.CancelledError:
        if not received:
            raise
    print("stopped: the same command goes on where this one ended", file=sys.stderr)  # noqa: T201
    sys.exit(128 + received[0])


def _describe(settings: EmbedSettings, summary: Summary) -> str:
    """The last line; raises ArtefactError when there are no embeddings at all."""
    output, share = settings.output, f"shard {settings.shard} of " if settings.shard.count > 1 else ""
    skipped = f"{summary.skipped} skipped (see {output}/{SKIPPED_FOLDER})" if summary.skipped else "none skipped"
    if not summary.parts:
        return f"{share}{output} has no parts: there are fewer parts than shards"
    if not summary.embedded:
        raise ArtefactError(f"no picture could be embedded, {skipped}; the first: {summary.first_reason}")
    if summary.found == summary.parts:
        return f"{share}{output} is finished already: {summary.embedded} pictures embedded, {skipped}"
    return f"{share}{output}: {summary.embedded} pictures embedded, {skipped}"


if __name__ == "__main__":
    run_program(main)
