"""Which precision an exported model is served in: measured on this processor, held against torch, chosen."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from predictor.agreement import Agreement, compare, draw_noise, measure_rates, predict_all
from predictor.engine import Engine
from predictor.exported import REDUCED, Exported, Measured, Precision
from predictor.openvino import OpenVINOEngine, compile_network, find_precisions
from serving.errors import ArtefactError, SettingError

WORTHWHILE = 1.15  # a smaller gain is within the noise of the measurement, and fp32 is the reference

Engines = Mapping[Precision, Engine]


def list_candidates(wanted: str, *, calibrated: bool) -> Sequence[Precision]:
    """The precisions to try: fp32 always, since it shows that the graph is right; int8 only with pictures.

    Raises SettingError when this processor cannot compute in the one that is wanted.
    """
    offered = find_precisions()
    if wanted not in ("auto", *offered):
        raise SettingError(
            f"--precision {wanted}: this processor cannot compute in it, so it cannot be checked here; "
            f"it offers {', '.join(offered)}"
        )
    possible = [name for name in REDUCED if name in offered and (calibrated or name != "int8")]
    return ("fp32", *(name for name in possible if wanted in ("auto", name)))


def compile_candidates(
    directory: Path, form: Exported, candidates: Sequence[Precision], threads: int
) -> dict[Precision, Engine]:
    """The exported graph, ready to run in each precision."""
    forms = [replace(form, precision=name) for name in candidates]
    return {
        one.precision: OpenVINOEngine(one, compile_network(directory / one.network[0], one.precision, threads))
        for one in forms
    }


def measure(engines: Engines, reference: Engine) -> tuple[Measured, ...]:
    """Run each engine beside the reference, on the same drawn pictures."""
    pixels = draw_noise(reference.size)
    wanted = predict_all(reference, pixels)
    agreements = {name: compare(predict_all(engine, pixels), wanted) for name, engine in engines.items()}
    rates = measure_rates(engines, pixels, (1, 8))
    return tuple(Measured(name, agreements[name], *rates[name]) for name in engines)


def choose_precision(
    measured: Sequence[Measured], wanted: str, failed: Collection[Precision] = ()
) -> tuple[Precision, bool]:
    """The one that is wanted, or for auto the fastest that agrees; and whether it is usable: not one that `failed`.

    Raises ArtefactError when the graph is wrong, or when a precision changes its answers that cannot be calibrated.
    """
    exact, rest = measured[0], measured[1:]
    if not is_exact(exact.agreement):
        raise ArtefactError(f"the exported graph does not compute what torch does ({describe(exact.agreement)})")
    if wanted == "auto":
        agreeing = [one for one in rest if _is_near(one) and one.precision not in failed]
        faster = [one for one in agreeing if _gain(one, exact) >= WORTHWHILE]
        return max(faster, key=lambda one: _gain(one, exact), default=exact).precision, True
    chosen = next(one for one in measured if one.precision == wanted)
    if chosen is not exact and not _is_near(chosen):
        raise ArtefactError(
            f"{wanted} changes this model's answers too much ({describe(chosen.agreement)}); use --precision fp32"
        )
    return chosen.precision, chosen.precision not in failed


def _is_near(one: Measured) -> bool:
    """int8 is judged by held-out pictures only: drawn ones are not like those that it was calibrated with."""
    return one.precision == "int8" or is_near(one.agreement)


def is_exact(agreement: Agreement) -> bool:
    """Equal but for the order of additions."""
    return agreement.largest_difference <= 1e-4 and agreement.cosine_min >= 0.9999


def is_near(agreement: Agreement) -> bool:
    """Equal for those who read the answers: the same classes, and neighbours in the same order but for ties."""
    return agreement.cosine_median >= 0.999 and agreement.same_top == 1


def describe(agreement: Agreement) -> str:
    """The figures for a person."""
    return (
        f"cosine of the embeddings {agreement.cosine_median:.5f} in the median and {agreement.cosine_min:.5f} at "
        f"worst, probabilities off by up to {agreement.largest_difference:.5f}, "
        f"the same best class for {agreement.same_top:.0%} of the pictures"
    )


def _gain(one: Measured, exact: Measured) -> float:
    """How many times as fast as fp32: the geometric mean of single pictures and full batches."""
    return math.sqrt(one.one_at_a_time / exact.one_at_a_time * one.eight_at_once / exact.eight_at_once)
