"""The ONNX graph -> OpenVINO's format with int8 matrix products, by NNCF's post-training quantisation (offline)."""

import contextlib
import io
import logging
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from contract import PIXELS, Pixels
from predictor.openvino import import_openvino
from serving.errors import SettingError


def check_nncf() -> None:
    """Raise SettingError when NNCF is not installed: no image that serves has it."""
    if find_spec("nncf") is None:
        raise SettingError("int8 needs nncf, which is not in this environment: pip install -r requirements/export.txt")


def quantise(graph: Path, target: Path, pixels: Pixels) -> None:
    """Write the `graph` to TARGET (.xml, its weights beside it as .bin), calibrated with `pixels` [N, S, S, 3]."""
    openvino = import_openvino()  # first: NNCF would report its use as well
    network = openvino.Core().read_model(graph)
    quantised = _quantise(network, pixels)
    target.parent.mkdir(parents=True, exist_ok=True)
    openvino.save_model(quantised, target, compress_to_fp16=False)


def _quantise(network: Any, pixels: Pixels) -> Any:
    with contextlib.redirect_stdout(io.StringIO()):  # its log goes there, and what is printed is for the user
        import nncf

        nncf.set_log_level(logging.ERROR)
        return nncf.quantize(
            network,
            nncf.Dataset([{PIXELS: one[None]} for one in np.ascontiguousarray(pixels)]),
            subset_size=len(pixels),
            model_type=nncf.ModelType.TRANSFORMER,
            # The patch convolution sees raw pixels, is a hundredth of the work, and was measured slower in int8.
            ignored_scope=nncf.IgnoredScope(types=["Convolution"]),
        )
