"""The parts of an embedding run: each is written whole or not at all, with the list of what it skips beside it."""

import csv
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from contract import Floats
from embeddings import write_embeddings_part
from serving.errors import ServiceError
from transformer.picture_list import Row
from transformer.plan import Plan, keep_plan, write_whole

SKIPPED_FOLDER = "_skipped"  # who reads the folder as Parquet leaves out names that begin with _


class Skipped(NamedTuple):
    """A picture that could not be embedded, and why."""

    row: Row
    error: ServiceError


class Counts(NamedTuple):
    """How many pictures were embedded, and how many skipped."""

    embedded: int = 0
    skipped: int = 0

    @property
    def done(self) -> int:
        """How many rows of the list these are."""
        return self.embedded + self.skipped


@dataclass
class Part:
    """The rows of one part, gathered until they are all there."""

    number: int
    rows: list[Row] = field(default_factory=list)  # M rows
    embeddings: list[Floats] = field(default_factory=list)  # [m, D] each, M rows in all
    skipped: list[Skipped] = field(default_factory=list)

    @property
    def counts(self) -> Counts:
        return Counts(len(self.rows), len(self.skipped))


class PartFolder:
    """The output folder of one plan; several processes may write different parts at the same time."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        """Make the folder; raises ArtefactError when it holds another plan's parts or something else."""
        keep_plan(folder, plan)
        self.plan = plan
        self._folder = folder

    def read_counts(self, part: int) -> Counts | None:
        """What is in a part; None when it has yet to be written.

        A part is done when its two files account for all its rows, so that no stop between the two can hide a row.
        """
        try:
            embedded = pq.read_metadata(self._part_file(part)).num_rows
        except FileNotFoundError:
            embedded = 0
        except (pa.ArrowException, OSError):  # cut short when the machine went down
            return None
        found = Counts(embedded, len(self.read_skipped(part)))
        return found if found.done == self.plan.size(part) else None

    def read_skipped(self, part: int) -> list[list[str]]:
        """Path, url, class and reason of each picture that a part skips."""
        try:
            text = self._skipped_file(part).read_text("utf-8", "surrogateescape")
        except FileNotFoundError:
            return []
        return list(csv.reader(io.StringIO(text, newline="")))[1:]

    def write(self, part: Part) -> None:
        """Write a part; one that skips every row has no Parquet file."""
        self._clean(part.number)
        if part.skipped:
            file = self._skipped_file(part.number)
            file.parent.mkdir(exist_ok=True)
            write_whole(file, _to_csv(part.skipped))
        if part.rows:
            names, labels = [row.name for row in part.rows], [row.label for row in part.rows]
            embeddings = np.concatenate(part.embeddings)  # [M, D]
            write_embeddings_part(self._part_file(part.number), names, labels, embeddings, self.plan.mark)

    def _part_file(self, part: int) -> Path:
        return self._folder / f"part-{part:05}.parquet"

    def _skipped_file(self, part: int) -> Path:
        return self._folder / SKIPPED_FOLDER / f"part-{part:05}.csv"

    def _clean(self, part: int) -> None:
        """Remove what a run that was killed left of this part."""
        for file in (self._part_file(part), self._skipped_file(part)):
            file.unlink(missing_ok=True)
            for unfinished in file.parent.glob(f".{file.name}.*"):
                unfinished.unlink(missing_ok=True)


def _to_csv(skipped: list[Skipped]) -> str:
    """A table that can itself be embedded again, once its pictures are mended."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("path", "url", "class", "reason"))
    writer.writerows((*row, f"{error.status} {error.sentence}") for row, error in skipped)
    return text.getvalue()
