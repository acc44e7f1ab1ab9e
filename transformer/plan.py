"""What determines the parts of an embedding run, kept beside them so that a later run makes the same ones."""

import json
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from contract import ClipMark
from serving.errors import ArtefactError
from transformer.picture_list import Extent

PLAN_FILE = "_plan.json"

# Sharding is not among them: it decides who makes a part, not what is in it.
_SAID = {
    "rows": "a list of {} pictures",
    "digest": "a list of pictures with the digest {}",
    "rows_per_part": "--rows_per_part {}",
    "fingerprint": "a predictor with the CLIP {}",
    "name": "--clip_name {}",
    "dim": "embeddings of {} numbers",
    "exif_orientation": "--exif_orientation {}",
}


@dataclass(frozen=True)
class Plan:
    """Part i holds the list's rows from i * rows_per_part on."""

    pictures: Extent
    rows_per_part: int
    mark: ClipMark

    @property
    def parts(self) -> int:
        """How many parts the whole list makes."""
        return -(-self.pictures.rows // self.rows_per_part)

    def size(self, part: int) -> int:
        """How many rows of the list belong to a part."""
        return min(self.rows_per_part, self.pictures.rows - part * self.rows_per_part)

    def fields(self) -> dict[str, Any]:
        """The plan as it is written."""
        rows, digest, _ = self.pictures
        return {"rows": rows, "digest": digest, "rows_per_part": self.rows_per_part, **asdict(self.mark)}


def keep_plan(folder: Path, plan: Plan) -> None:
    """Write the plan into its folder, or compare it with the one there; raises ArtefactError when they differ."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / PLAN_FILE
    if not file.exists():
        if any(folder.glob("*.parquet")):
            raise ArtefactError(f"{folder} has embeddings already, but no {PLAN_FILE}; name an empty folder")
        write_whole(file, json.dumps(plan.fields(), indent=2) + "\n")
    _compare(folder, _read(file), plan.fields())


def write_whole(file: Path, text: str) -> None:
    """Write a small file, whole or not at all."""
    unfinished = file.with_name(f".{file.name}.{uuid.uuid4().hex}")
    try:
        unfinished.write_text(text, encoding="utf-8", errors="surrogateescape")  # names of files need not be UTF-8
        unfinished.replace(file)
    finally:
        unfinished.unlink(missing_ok=True)


def _read(file: Path) -> dict[str, Any]:
    try:
        fields = json.loads(file.read_text())
        return {name: fields[name] for name in _SAID}
    except (ValueError, KeyError, TypeError):
        raise ArtefactError(f"{file} is not the plan of an embedding run; name an empty folder") from None


def _compare(folder: Path, begun: dict[str, Any], now: dict[str, Any]) -> None:
    for name, said in _SAID.items():
        if begun[name] != now[name]:
            raise ArtefactError(
                f"{folder} was begun with {said.format(_show(begun[name]))}, and this run has "
                f"{said.format(_show(now[name]))}; run it as it was begun, or name another --output"
            )


def _show(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value) if value != "" else "''"
