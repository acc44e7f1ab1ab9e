"""`python -m benchmarks.smoke`: that the benchmarks still run and that answers agree; no timings.

Ours in each engine and the bare limit; the systems of others are for `make bench`.
"""

from collections.abc import Mapping, Sequence

from benchmarks.plans import BARE, Part
from benchmarks.systems import list_systems
from benchmarks.trial import Trial, picture_host
from benchmarks.workload import SMALL, make_workload
from serving.errors import ArtefactError
from serving.program import run_program

OURS = ("ours, torch fp32", "ours, OpenVINO fp32", "ours, OpenVINO fp32, gRPC")
SAME_BEST, IN_COMMON = 1.0, 0.95  # shares; a tie in the search may go either way


def main(argv: Sequence[str], environ: Mapping[str, str]) -> None:
    """Raises ArtefactError when a system does not run, or answers something else than Hugging Face and torch."""
    workload = make_workload(("fp32",))
    systems = list_systems(workload)
    with picture_host(workload.pictures(SMALL)) as host:
        trial = Trial(Part(concurrency=()), workload)
        for name in OURS:
            trial.measure(systems[name], host)
    for name in OURS:
        if name in trial.skipped:
            raise ArtefactError(f"{name} did not run: {trial.skipped[name]}")
        found = trial.rounds[name][0]["agreement"]
        print(
            f"{name}: the same best class for {found['same_best']:.0%}, {found['matches_in_common']:.0%} of the matches"
        )
        if found["same_best"] < SAME_BEST or found["matches_in_common"] < IN_COMMON:
            raise ArtefactError(f"{name} does not answer as Hugging Face's processor and torch do: {found}")
    bare = Trial(Part(seconds=1), workload)
    for name in BARE:
        if "fp32" in name:
            bare.measure_bare(name)
            print(f"{name}: runs")


if __name__ == "__main__":
    run_program(main)
