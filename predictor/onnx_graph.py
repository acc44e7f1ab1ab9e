"""The torch network -> an ONNX file that takes any number of pictures."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from contract import EMBEDDING, PIXELS, PROBABILITIES
from predictor.model import Network

# The oldest that the exporter writes by itself, so that most runtimes read it; it has LayerNormalization as one
# operator, and OpenVINO measured no gain from 20 (Gelu) and 23 (Attention), which it recognises by their parts.
OPSET = 18


class _Graph(nn.Module):
    """The network with its outputs in the order of the ONNX file."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        embedding, probabilities = self.network(pixels)
        return embedding if probabilities is None else (probabilities, embedding)


def write_onnx(network: Network, size: int, path: Path) -> None:
    """Write `pixels` uint8 [N, S, S, 3] -> `probabilities` [N, C] (with a head), `embedding` [N, D].

    The weights go into PATH.data beside it.
    """
    outputs = [EMBEDDING] if network.head is None else [PROBABILITIES, EMBEDDING]
    pixels = torch.zeros(2, size, size, 3, dtype=torch.uint8)  # two: a size of one would be taken as fixed
    with _quiet_exporter():
        program = torch.onnx.export(
            _Graph(network).eval(),
            (pixels,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[PIXELS],
            output_names=outputs,
            dynamic_shapes=({0: torch.export.Dim("N")},),
            verbose=False,
        )
    assert program is not None
    path.parent.mkdir(parents=True, exist_ok=True)
    # Protobuf ends at 2 GiB, and OpenVINO maps a file of its own into memory where it would copy what is in the graph.
    program.save(path, external_data=True)


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Leave out its notes on torchvision, which is not needed, and on torch's own future."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
