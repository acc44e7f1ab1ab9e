"""What `benchmarks.serve` measures: a few parts, each with its pictures, levels of concurrency and systems."""

from dataclasses import dataclass

from benchmarks.agreement import COMPARED
from benchmarks.starting import GRPC
from benchmarks.systems import BARE_SERVERS, BY_WRK, WITH_OUR_ENGINE, WITHOUT_MODEL
from benchmarks.workload import SMALL

BARE = {
    "bare, torch fp32": ("model", "torch"),
    "bare, OpenVINO fp32": ("exported-fp32", "openvino"),
    "bare, OpenVINO bf16": ("exported-bf16", "openvino"),
    "bare, OpenVINO int8": ("exported-int8", "openvino"),
}
ALL = (1, 8, 32, 128)
SLOW = "Ray, as written"  # a minute and a half for each of eight at once: as rarely as it may be
_OURS = ("ours, OpenVINO fp32", "ours, OpenVINO bf16", "ours, OpenVINO int8")
_FEW = (*_OURS, *(f"{peer}, OpenVINO fp32" for peer in WITH_OUR_ENGINE))

_LATER = tuple(f"{peer}, OpenVINO bf16" for peer in WITH_OUR_ENGINE)  # in the quick plan at one level only
_ONCE = ("ours, OpenVINO fp32" + GRPC, WITHOUT_MODEL, WITHOUT_MODEL + BY_WRK, BARE_SERVERS)  # in the quick plan


@dataclass(frozen=True)
class Part:
    """Each of `systems` (all without any) is started in every round and asked at each level for `seconds`."""

    pictures: str = SMALL
    concurrency: tuple[int, ...] = (1, 8, 32)
    seconds: float = 5.0
    rounds: int = 3
    systems: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    compared: int = COMPARED  # pictures whose answers are compared in the first round


# On 2 cores that are idle otherwise.
TAKES = {"quick": "40 minutes", "default": "90 minutes", "full": "a night"}
PLANS = {
    # What the targets need, and a few with large pictures.
    "quick": (
        Part(seconds=6, rounds=1, without=(SLOW, *_LATER, *_ONCE)),
        Part(concurrency=(8,), seconds=240, rounds=1, systems=(SLOW,)),
        Part(seconds=6, rounds=1, without=(SLOW, *_LATER, *_ONCE)),
        Part(seconds=6, rounds=1, systems=_ONCE),
        Part(concurrency=(8,), seconds=6, rounds=1, systems=("ours, OpenVINO bf16", *_LATER)),
        Part("1080p", (8,), 6, 1, systems=(*BARE, *_FEW)),
        Part("12mp", (8,), 6, 1, systems=(*BARE, *_FEW)),
    ),
    "default": (
        Part(concurrency=ALL, seconds=6, without=(SLOW,)),
        Part(concurrency=(1, 8), seconds=240, rounds=1, systems=(SLOW,)),
        Part("1080p", (8,), systems=(*BARE, *_FEW)),
        Part("12mp", (8,), systems=(*BARE, *_FEW)),
    ),
    "full": tuple(
        part
        for pictures in (SMALL, "1080p", "12mp")
        for part in (
            Part(pictures, ALL, 15, 5, without=(SLOW,)),
            Part(pictures, (1, 8), 240, 3, systems=(SLOW,)),
        )
    ),
}
