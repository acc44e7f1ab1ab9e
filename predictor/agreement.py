"""How near an engine's answers are to the reference's, and how fast it is (numpy only)."""

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from contract import Floats, Pixels, Prediction
from predictor.engine import Engine

BATCHES = (1, 2, 5, 8)  # odd ones too: the number of pictures is free
ROUNDS, SECONDS = 5, 1.0  # least of both that are measured
# A class whose probability is this near the best, and half of it at least, is as good an answer: drawn pictures are
# like none that a head was trained on, it is sure of none of them, and bf16 alone moves their probabilities by 0.05.
TIE = 0.05

Name = TypeVar("Name", bound=str)


@dataclass(frozen=True)
class Agreement:
    """An engine's answers beside the reference's."""

    cosine_median: float
    cosine_min: float
    largest_difference: float  # of a probability; 0 without a head
    same_top: float  # share of the pictures with the same most probable class, but for ties; 1 without a head


def draw_noise(size: int, seed: int = 0) -> Pixels:
    """Pictures with the spectrum of photographs, whose amplitude falls with the frequency: [16, S, S, 3] uint8."""
    random = np.random.default_rng(seed)
    shape = (sum(BATCHES), 3, size, size // 2 + 1)
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size))  # [S, S // 2 + 1]
    spectrum = (random.normal(size=shape) + 1j * random.normal(size=shape)) / np.maximum(frequency, 1 / size)
    spectrum[:, 1:] = spectrum[:, :1] + 0.4 * spectrum[:, 1:]  # colours follow the light
    waves = np.fft.irfft2(spectrum, s=(size, size))  # [16, 3, S, S]
    contrast = random.uniform(20, 80, (len(waves), 1, 1, 1)) / waves.std((1, 2, 3), keepdims=True)
    levels = random.uniform(60, 190, (len(waves), 1, 1, 1)) + contrast * waves
    return np.ascontiguousarray(levels.clip(0, 255).astype(np.uint8).transpose(0, 2, 3, 1))


def predict_all(engine: Engine, pixels: Pixels) -> Prediction:
    """Answer `pixels` in batches of 1, 2, 5 and 8, and of 8 from there on."""
    cuts = [*np.cumsum(BATCHES)[:-1], *range(sum(BATCHES), len(pixels), BATCHES[-1])]
    parts = [engine.predict(part) for part in np.split(pixels, cuts)]
    probabilities = [part.probabilities for part in parts if part.probabilities is not None]
    return Prediction(
        np.concatenate([part.embedding for part in parts]),
        np.concatenate(probabilities) if probabilities else None,
        parts[0].classes,
        parts[0].info,
    )


def compare(answer: Prediction, reference: Prediction) -> Agreement:
    """Compare row by row; what is not a number agrees with nothing."""
    cosines = compare_embeddings(answer.embedding, reference.embedding)
    difference, same = 0.0, 1.0
    if reference.probabilities is not None:
        assert answer.probabilities is not None
        given, wanted = np.nan_to_num(answer.probabilities, nan=-1.0), reference.probabilities
        difference = float(np.abs(given - wanted).max())
        picked = np.take_along_axis(wanted, given.argmax(1)[:, None], 1)[:, 0]
        best = wanted.max(1)
        same = float((picked >= np.maximum(best - TIE, best / 2)).mean())
    return Agreement(float(np.median(cosines)), float(cosines.min()), difference, same)


def compare_embeddings(a: Floats, b: Floats) -> Floats:
    """The cosine of each row of `a` and the same row of `b`; -1 for what is not a number."""
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosines: Floats = np.nan_to_num((a * b).sum(1) / lengths, nan=-1.0)
    return cosines


def measure_rates(engines: Mapping[Name, Engine], pixels: Pixels, batches: Sequence[int]) -> dict[Name, list[float]]:
    """Pictures/s of each engine at each batch: medians of interleaved rounds, so that other load meets all of them."""
    rates: dict[Name, list[float]] = {name: [] for name in engines}
    for batch in batches:
        seconds: dict[Name, list[float]] = {name: [] for name in engines}
        end = time.perf_counter() + SECONDS
        while len(seconds[next(iter(engines))]) < ROUNDS or time.perf_counter() < end:
            for name, engine in engines.items():
                begin = time.perf_counter()
                engine.predict(pixels[:batch])
                seconds[name].append(time.perf_counter() - begin)
        for name, taken in seconds.items():
            rates[name].append(batch / statistics.median(taken))
    return rates
