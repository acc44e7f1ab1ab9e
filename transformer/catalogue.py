"""Whether a path is in an index, without a second copy of its paths in memory."""

from bisect import bisect_left
from typing import Any

import numpy as np
import pyarrow.compute as pc


class Catalogue:
    """The order of N paths, in which one is found by halving."""

    def __init__(self, paths: Any) -> None:
        self.paths = paths  # [N] strings of pyarrow
        self._order = pc.sort_indices(paths).to_numpy().astype(np.uint32)  # [N]

    def __contains__(self, path: object) -> bool:
        if not isinstance(path, str):
            return False
        # pyarrow sorts by the bytes of UTF-8 and Python by code points, which is the same order.
        position = bisect_left(range(len(self._order)), path, key=self._path)
        return position < len(self._order) and self._path(position) == path

    def _path(self, position: int) -> str:
        path: str = self.paths[int(self._order[position])].as_py()
        return path
