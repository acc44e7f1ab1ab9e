"""Parts on disk, whatever moment an earlier run was killed at."""

import json
from pathlib import Path

import numpy as np
import pytest

from contract import ClipMark
from embeddings import read_embeddings
from serving.errors import ArtefactError, FetchFailed
from transformer.parts import Part, PartFolder, Skipped
from transformer.picture_list import Extent, Row
from transformer.plan import PLAN_FILE, Plan

MARK = ClipMark("0123456789abcdef", "sample", 3, True)
PLAN = Plan(Extent(5, "digest"), 2, MARK)


def make_part(number: int, good: int, bad: int = 0) -> Part:
    rows = [Row(f"a/{number}-{i}.jpg", "", "a") for i in range(good)]
    skipped = [Skipped(Row("", f"http://h/{number}?a,b\n{i}", "b"), FetchFailed("gone")) for i in range(bad)]
    return Part(number, rows, [np.full((good, 3), number, np.float32)] if good else [], skipped)


def test_parts_are_found_again_and_bad_rows_are_listed(tmp_path: Path) -> None:
    folder = PartFolder(tmp_path / "deep" / "out", PLAN)
    assert [PLAN.parts, *map(PLAN.size, range(3))] == [3, 2, 2, 1]
    assert [folder.read_counts(part) for part in range(3)] == [None] * 3
    for part in (make_part(0, 2), make_part(1, 1, 1), make_part(2, 0, 1)):
        folder.write(part)
    again = PartFolder(tmp_path / "deep" / "out", PLAN)
    assert [again.read_counts(part) for part in range(3)] == [(2, 0), (1, 1), (0, 1)]
    assert again.read_skipped(1) == [["", "http://h/1?a,b\n0", "b", "424 gone"]]
    embeddings = read_embeddings(str(tmp_path / "deep" / "out"))
    assert embeddings.paths.to_pylist() == ["a/0-0.jpg", "a/0-1.jpg", "a/1-0.jpg"]
    assert embeddings.mark == MARK


def test_what_a_killed_run_left_is_not_taken_for_a_part(tmp_path: Path) -> None:
    folder = PartFolder(tmp_path, PLAN)
    # Killed after the list of what is skipped, in the middle of the Parquet file.
    folder.write(make_part(0, 1, 1))
    part, hidden = tmp_path / "part-00000.parquet", tmp_path / ".part-00000.parquet.0123"
    part.rename(hidden)
    assert folder.read_counts(0) is None
    # Now the bad picture is good: its line must go.
    folder.write(make_part(0, 2))
    assert folder.read_counts(0) == (2, 0)
    assert not hidden.exists() and not list((tmp_path / "_skipped").iterdir())
    # The machine itself went down.
    part.write_bytes(part.read_bytes()[:-20])
    assert folder.read_counts(0) is None
    folder.write(make_part(0, 0, 2))
    assert folder.read_counts(0) == (0, 2)
    assert not part.exists()


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (Plan(Extent(6, "digest"), 2, MARK), "a list of 5 pictures, and this run has a list of 6 pictures"),
        (Plan(Extent(5, "other"), 2, MARK), "digest digest, and .* digest other"),
        (Plan(Extent(5, "digest"), 3, MARK), "--rows_per_part 2, and this run has --rows_per_part 3"),
        (Plan(PLAN.pictures, 2, ClipMark("f" * 16, "sample", 3, True)), "the CLIP 0123456789abcdef, .* the CLIP ffff"),
        (Plan(PLAN.pictures, 2, ClipMark(MARK.fingerprint, "", 3, True)), "--clip_name sample, .* --clip_name ''"),
        (
            Plan(PLAN.pictures, 2, ClipMark(MARK.fingerprint, "sample", 3, False)),
            "--exif_orientation on, and this run has --exif_orientation off",
        ),
    ],
)
def test_a_run_of_another_plan_is_refused(tmp_path: Path, other: Plan, says: str) -> None:
    PartFolder(tmp_path, PLAN)
    before = (tmp_path / PLAN_FILE).read_text()
    with pytest.raises(ArtefactError, match=says):
        PartFolder(tmp_path, other)
    assert (tmp_path / PLAN_FILE).read_text() == before


def test_a_folder_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.parquet").touch()
    with pytest.raises(ArtefactError, match="has embeddings already"):
        PartFolder(tmp_path, PLAN)
    for text in ("", "[]", json.dumps({"rows": 5})):
        (tmp_path / PLAN_FILE).write_text(text)
        with pytest.raises(ArtefactError, match="is not the plan"):
            PartFolder(tmp_path, PLAN)
