"""Reads what `benchmarks.serve` wrote: medians of the rounds, None where nothing sound was measured."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.serve_table import is_sound, median, show_rounds
from benchmarks.workload import SMALL

Round = Mapping[str, Any]


class Served:
    """The rounds of the parts with pictures of one size."""

    def __init__(self, figures: Any, pictures: str = SMALL) -> None:
        parts = figures["parts"] if figures else ()
        self.parts: list[Mapping[str, list[Round]]] = [part["rounds"] for part in parts if part["pictures"] == pictures]
        self.rounds: dict[str, list[Round]] = {}
        for part in self.parts:
            for name, rounds in part.items():
                self.rounds.setdefault(name, []).extend(rounds)

    def split(self) -> Iterator["Served"]:
        """Each round of each part by itself, with the systems that were measured once in all."""
        once = {name: found for name, found in self.rounds.items() if len(found) == 1}
        for part in self.parts:
            for i in range(max(map(len, part.values()), default=0)):
                there = {name: found[i : i + 1] for name, found in part.items() if i < len(found)}
                yield Served({"parts": [{"pictures": SMALL, "rounds": {**once, **there}}]})

    def levels(self, name: str, level: int) -> Sequence[Round]:
        """The rounds of a system at one level of concurrency."""
        found = [one["levels"][str(level)] for one in self.rounds.get(name, ()) if str(level) in one.get("levels", ())]
        return found if found and is_sound(found) else ()

    def figure(self, name: str, level: int, key: str) -> float | None:
        """The median of one figure."""
        levels = self.levels(name, level)
        return median(levels, key) if levels else None

    def per_second(self, name: str, level: int) -> float | None:
        """Requests."""
        return self.figure(name, level, "per_second")

    def agreement(self, name: str) -> float:
        """The share of pictures that got the reference's best class; 0 for a system that was not measured."""
        return min((one["agreement"]["same_best"] for one in self.rounds.get(name, ())), default=0.0)

    def bare(self, name: str, key: str) -> float | None:
        """A figure of forward and decode in one process."""
        rounds = [one["bare"] for one in self.rounds.get(name, ()) if "bare" in one]
        return median(rounds, key) if rounds else None

    def limit(self, bare: str) -> float | None:
        """Pictures per second without a server."""
        return self.bare(bare, "pictures_per_second")


def show_parts(figures: Any) -> str:
    """A table for each size of pictures."""
    means = {part["pictures"]: part["means"] for part in reversed(figures["parts"])}
    return "\n".join(
        f"\nPictures of {pictures}:\n\n{show_rounds(Served(figures, pictures).rounds, means[pictures])}"
        for pictures in dict.fromkeys(part["pictures"] for part in figures["parts"])
    )
