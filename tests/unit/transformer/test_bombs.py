"""Where files begin to have more parts than pictures have."""

import pytest

from serving.errors import InvalidRequest
from tests.pictures import draw, encode
from transformer.bombs import refuse_bombs

SCAN, EXIF = b"\xff\xda", b"\xff\xe1"


@pytest.mark.parametrize(
    ("scans", "segments", "refused"),
    [(100, 0, False), (101, 0, True), (100, 1000, False), (1, 1000, False), (1, 1001, True), (101, 1000, True)],
)
def test_scans_and_exif_segments_are_counted_by_kind(scans: int, segments: int, *, refused: bool) -> None:
    jpeg = encode(draw(20, 20), "JPEG")  # one scan
    data = jpeg + SCAN * (scans - 1) + EXIF * segments
    if refused:
        with pytest.raises(InvalidRequest, match=r"more than (100|1000) parts of one kind"):
            refuse_bombs(data)
    else:
        refuse_bombs(data)
