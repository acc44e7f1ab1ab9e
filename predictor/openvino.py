"""The OpenVINO engine: an exported model on processors, in an environment without torch."""

import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from contract import CONTRACT_VERSION, EMBEDDING, PIXELS, PROBABILITIES, Pixels, Prediction, PredictorInfo
from predictor.exported import EXPORT_FILE, Exported, check_network, read_exported
from serving.errors import ArtefactError

# In int8 the matrix products are in the graph; all else is float32, so that it is the same on every processor.
HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16", "int8": "f32"}
CAPABILITIES = {"fp32": "FP32", "bf16": "BF16", "fp16": "FP16", "int8": "INT8"}
DEVICE = "CPU"


class OpenVINOEngine:
    """Runs an exported network; see `predictor.engine.Engine`."""

    def __init__(self, exported: Exported, network: Any) -> None:
        self.size = exported.size
        self.dim = exported.dim
        self.classes = exported.classes
        self.precision, self.head = exported.precision, exported.head
        self.weights = exported.network[1]  # the file below the model's folder
        self.info = PredictorInfo(exported.mark.fingerprint, CONTRACT_VERSION, exported.resize)
        self._request = network.create_infer_request()

    def list_warm_ups(self, max_batch: int) -> Sequence[int]:
        """Batches after which none is slow for being the first of its size: only float32 has one kernel for all."""
        return sorted({1, max_batch}) if self.precision == "fp32" else range(1, max_batch + 1)

    def predict(self, pixels: Pixels) -> Prediction:
        """Answer [N, S, S, 3] uint8."""
        outputs = self._request.infer({PIXELS: pixels}, share_inputs=True)  # the outputs are copies
        probabilities = outputs[PROBABILITIES] if self.classes else None
        return Prediction(outputs[EMBEDDING], probabilities, self.classes, self.info)


def load_engine(model_dir: Path, threads: int) -> OpenVINOEngine:
    """Load the network of MODEL_DIR as MODEL_DIR/export.json says.

    Raises ArtefactError naming the file that is not as it was exported, or the precision that this processor lacks.
    """
    exported = read_exported(model_dir)
    check_network(model_dir, exported)
    if exported.precision not in find_precisions():
        raise ArtefactError(
            f"{model_dir / EXPORT_FILE} says {exported.precision}, which this processor cannot compute; "
            "serve it on one that can, or export the model with --precision fp32"
        )
    graph = model_dir / exported.network[0]
    network = compile_network(graph, exported.precision, threads)
    _check_shapes(network, exported, graph)
    return OpenVINOEngine(exported, network)


def import_openvino() -> ModuleType:
    """The `openvino` package, kept from reporting its import.

    It sends an event to its makers and writes an id below HOME, without asking, while it is imported; where its
    telemetry package cannot be imported it takes an empty stand-in.
    """
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    import openvino

    package: ModuleType = openvino
    return package


def find_precisions() -> tuple[str, ...]:
    """The precisions that this processor computes in."""
    capabilities = read_property("OPTIMIZATION_CAPABILITIES")
    return tuple(name for name, capability in CAPABILITIES.items() if capability in capabilities)


def read_property(name: str) -> Any:
    """What OpenVINO says of this processor."""
    return import_openvino().Core().get_property(DEVICE, name)


def compile_network(path: Path, precision: str, threads: int) -> Any:
    """Make a network of a file ready to run; raises ArtefactError when it is not one."""
    settings = {
        "INFERENCE_PRECISION_HINT": HINTS[precision],  # without it bf16 wherever the processor has it
        # One batch at a time on all threads: measured as fast as several streams, and a lone picture is faster.
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "ENABLE_CPU_PINNING": False,  # or the pods of a node all sit on its first cores
    }
    core = import_openvino().Core()
    try:
        return core.compile_model(core.read_model(path), DEVICE, settings)
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise ArtefactError(f"{path} cannot be loaded: {reason}") from error


def _check_shapes(network: Any, exported: Exported, path: Path) -> None:
    """Raise ArtefactError when the graph is not the one that export.json describes."""
    size, classes = exported.size, {PROBABILITIES: [len(exported.classes)]} if exported.classes else {}
    expected = {PIXELS: [size, size, 3], EMBEDDING: [exported.dim], **classes}
    found = {port.any_name: _row_shape(port) for port in (*network.inputs, *network.outputs)}
    if found != expected:
        raise ArtefactError(f"{path} has the tensors {found}, but by {EXPORT_FILE} it should have {expected}")


def _row_shape(port: Any) -> list[int]:
    """The shape of one picture's part; the number of pictures is free."""
    shape = port.partial_shape
    if not shape[0].is_dynamic:
        return [shape[0].get_length()]  # of no tensor that is expected
    return [size.get_length() if size.is_static else -1 for size in list(shape)[1:]]
