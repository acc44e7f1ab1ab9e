"""How near a system's answers are to those of Hugging Face's processor and torch."""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.workload import K, N, Workload

COMPARED = 16  # pictures

Answer = Mapping[str, Any]  # {"probabilities": {class: p}, "top_matches": [...]}


def read_reference(workload: Workload, pictures: str) -> Mapping[str, Answer]:
    """What Hugging Face's processor and torch answer to the first pictures, by file name; computed once."""
    cached = workload.root / f"reference-{pictures}.json"
    if not cached.exists():
        environ = {
            **os.environ, "MODEL_DIR": str(workload.model), "INDEX_DIR": str(workload.index), "K": str(K), "N": str(N),
        }  # fmt: skip
        files = [str(path) for path in sorted(workload.pictures(pictures).iterdir())[:COMPARED]]
        command = [sys.executable, "benchmarks/peers/reference.py", *files]
        cached.write_bytes(subprocess.run(command, env=environ, stdout=subprocess.PIPE, check=True).stdout)
    return json.loads(cached.read_text())  # type: ignore[no-any-return]


def compare(pairs: Sequence[tuple[Answer, Answer]]) -> dict[str, float]:
    """Of answers and what they should be: shares of equal best classes and of matches in common."""
    best, difference, overlap = [], [], []
    for given, wanted in pairs:
        p, q = given["probabilities"], wanted["probabilities"]
        best.append(max(p, key=p.__getitem__) == max(q, key=q.__getitem__))
        difference.append(max(abs(p[label] - q[label]) for label in q))
        paths = [{match["path"] for match in answer["top_matches"]} for answer in (given, wanted)]
        overlap.append(len(paths[0] & paths[1]) / len(paths[1]))
    return {
        "same_best": statistics.mean(best),
        "probability_off_by": max(difference),
        "matches_in_common": statistics.mean(overlap),
    }
