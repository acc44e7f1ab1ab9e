"""`python -m benchmarks.page`: writes the newest figures into docs/benchmarks.md and their plots into docs/images.

The page has a place for each, between `<!-- NAME -->` and `<!-- end -->`; what stands around is written by hand.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.halves import show_halves
from benchmarks.overload import show_rates
from benchmarks.paired import show_pairs
from benchmarks.plots import draw
from benchmarks.profiled import show_profile
from benchmarks.rounds import read_newest, show_machine
from benchmarks.served import show_parts
from benchmarks.start import show_starts
from benchmarks.targets import read_all, show_targets
from serving.errors import ArtefactError
from serving.program import run_program

PAGE, IMAGES = Path("docs/benchmarks.md"), Path("docs/images")
TABLES: Mapping[str, Callable[[Any], str]] = {
    "serve": show_parts,
    "pairs": show_pairs,
    "profile": show_profile,
    "overload": lambda figures: show_rates(figures["rates"]),
    "start": lambda figures: show_starts(figures["rounds"]),
    "halves": lambda figures: show_halves(figures["rounds"]),
}


def main(argv: Sequence[str], environ: Mapping[str, str]) -> None:
    """Replace what was measured; the rest stays as it is."""
    page = fill(PAGE.read_text(), "targets", show_targets(read_all()))
    for name, show in TABLES.items():
        if figures := read_newest(name):
            plot = draw(name, figures, IMAGES / f"bench-{name}.png")
            text = f"{show_machine(figures['machine'])}.\n\n{show(figures).strip()}\n\n![{name}](images/{plot.name})"
            page = fill(page, name, text)
    PAGE.write_text(page)
    print(PAGE)


def fill(page: str, name: str, text: str) -> str:
    """The page with `text` in the place of that name; raises ArtefactError where it has none."""
    place = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
    filled, places = place.subn(lambda found: f"{found[1]}\n{text}\n\n{found[2]}", page)
    if not places:
        raise ArtefactError(f"{PAGE}: there is no <!-- {name} --> with an <!-- end -->")
    return filled


if __name__ == "__main__":
    run_program(main)
