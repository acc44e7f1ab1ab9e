"""The torch network at a few batch sizes only, which is what compiled kernels and CUDA graphs are made for."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from contract import Floats, Pixels

Forward = Callable[[Tensor], tuple[Tensor, Tensor | None]]
Answer = tuple[Floats, Floats | None]  # embedding [n, D] and probabilities [n, C]

LARGEST = 64  # pictures; a larger batch is cut, so that the copies of a part overlap the computing of the one before
WARM_UPS = 3  # forwards before a CUDA graph is captured: kernels are compiled, and libraries take their workspaces


class FixedSizes:
    """Pads a batch to the next power of two; on a GPU copies from and to pinned memory around a CUDA graph."""

    def __init__(self, forward: Forward, size: int, max_batch: int, device: torch.device) -> None:
        self._counts = list_counts(min(max_batch, LARGEST))
        self._lanes = [_Lane(forward, size, device) for _ in range(2)]

    def predict(self, pixels: Pixels) -> Answer:
        """Answer [n, S, S, 3] uint8, two parts on their way at a time."""
        answers: list[Answer] = []
        begun: list[_Lane] = []
        for number, part in enumerate(self._cut(pixels)):
            if len(begun) == len(self._lanes):
                answers.append(begun.pop(0).finish())
            lane = self._lanes[number % len(self._lanes)]
            lane.begin(part, next(count for count in self._counts if count >= len(part)))
            begun.append(lane)
        answers += [lane.finish() for lane in begun]
        return answers[0] if len(answers) == 1 else _join(answers)

    def _cut(self, pixels: Pixels) -> Iterator[Pixels]:
        for first in range(0, len(pixels), self._counts[-1]):
            yield pixels[first : first + self._counts[-1]]


def list_counts(largest: int) -> list[int]:
    """Powers of two, and the largest batch itself."""
    return sorted({min(2**power, largest) for power in range(largest.bit_length() + 1)})


def list_warm_ups(max_batch: int) -> list[int]:
    """Batches that between them prepare every size on every lane."""
    counts = list_counts(min(max_batch, LARGEST))
    return counts if max_batch <= LARGEST else counts + sorted({min(LARGEST + count, max_batch) for count in counts})


@dataclass(frozen=True)
class _Prepared:
    """A batch size: where its pixels wait, how they are computed, and where the answers arrive."""

    staged: Tensor  # [count, S, S, 3] uint8, in pinned memory for a GPU
    compute: Callable[[], list[Tensor]]  # the answers, in pinned memory as soon as the stream got that far


class _Lane:
    """One part on its way, with memory of its own and, on a GPU, a stream of its own."""

    def __init__(self, forward: Forward, size: int, device: torch.device) -> None:
        self._forward, self._size, self._device = forward, size, device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._prepared: dict[int, _Prepared] = {}
        self._answers: list[Tensor] = []
        self._length = 0

    def begin(self, pixels: Pixels, count: int) -> None:
        """Start on [n, S, S, 3], padded to `count`; on a GPU this returns before anything is computed."""
        if count not in self._prepared:
            self._prepared[count] = self._prepare(count)
        prepared, self._length = self._prepared[count], len(pixels)
        prepared.staged.numpy()[: len(pixels)] = pixels  # what is left of an earlier batch pads it
        with self._on_stream():
            self._answers = prepared.compute()

    def finish(self) -> Answer:
        """Wait for what was begun."""
        if self._stream:
            self._stream.synchronize()
        embedding, *rest = (answer.numpy()[: self._length].copy() for answer in self._answers)
        return embedding, rest[0] if rest else None

    def _prepare(self, count: int) -> _Prepared:
        cuda = self._stream is not None
        staged = torch.zeros(count, self._size, self._size, 3, dtype=torch.uint8, pin_memory=cuda)
        return _Prepared(staged, self._capture(staged) if cuda else lambda: self._run(staged))

    def _capture(self, staged: Tensor) -> Callable[[], list[Tensor]]:
        """Record the forward once; replaying it costs one launch instead of hundreds."""
        pixels, graph = staged.to(self._device), torch.cuda.CUDAGraph()
        with self._on_stream():
            for _ in range(WARM_UPS):
                self._run(pixels)
        torch.cuda.synchronize(self._device)
        # An engine that serves meanwhile, in another thread, may do what a capture forbids.
        with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            computed = self._run(pixels)
        answers = [torch.empty(one.shape, dtype=one.dtype, pin_memory=True) for one in computed]

        def compute() -> list[Tensor]:
            pixels.copy_(staged, non_blocking=True)
            graph.replay()
            for answer, one in zip(answers, computed, strict=True):
                answer.copy_(one, non_blocking=True)
            return answers

        return compute

    def _run(self, pixels: Tensor) -> list[Tensor]:
        return [answer for answer in self._forward(pixels) if answer is not None]

    def _on_stream(self) -> AbstractContextManager[object]:
        return torch.cuda.stream(self._stream) if self._stream else nullcontext()


def _join(answers: list[Answer]) -> Answer:
    probabilities = [one for _, one in answers if one is not None]
    return np.concatenate([one for one, _ in answers]), np.concatenate(probabilities) if probabilities else None
