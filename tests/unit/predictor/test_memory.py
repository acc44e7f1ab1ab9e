"""Pages that were read once are given back, and come again when they are needed."""

import mmap
import sys
from pathlib import Path

import pytest

from predictor.memory import release_pages
from tests.resident import resident_kilobytes

SIZE = 4 * 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux shows what is mapped")
@pytest.mark.parametrize("access", [mmap.ACCESS_READ, mmap.ACCESS_COPY])
def test_only_what_cannot_have_been_changed_is_given_back(access: int, tmp_path: Path) -> None:
    file = tmp_path / "some weights.bin"
    file.write_bytes(bytes(range(256)) * (SIZE // 256))
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=access) as mapped:
        assert sum(mapped[::4096]) == 0
        assert resident_kilobytes(file) >= SIZE / 1024
        if access == mmap.ACCESS_COPY:
            mapped[0] = 7
        release_pages(file)
        assert (resident_kilobytes(file) == 0) == (access == mmap.ACCESS_READ)
        assert mapped[0] == (0 if access == mmap.ACCESS_READ else 7)
        assert mapped[1:256] == bytes(range(1, 256))


def test_a_file_that_is_not_mapped_is_left_alone(tmp_path: Path) -> None:
    release_pages(tmp_path / "no such file")
