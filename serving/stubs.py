"""KServe's generated V2 messages, without the two seconds that `import kserve` costs an offline program."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

_NAME = "kserve.protocol.grpc.grpc_predict_v2_pb2"
SERVICE = "inference.GRPCInferenceService"


def load_messages() -> Any:
    """The message module, shared with KServe itself whichever of the two is imported first."""
    return sys.modules.get(_NAME) or _load_without_kserve()


def _load_without_kserve() -> ModuleType:
    # find_spec of a top-level package does not run it; of a nested module it would.
    package = importlib.util.find_spec("kserve")
    if package is None or not package.submodule_search_locations:
        raise ModuleNotFoundError("kserve is not installed")
    path = Path(package.submodule_search_locations[0], "protocol", "grpc", "grpc_predict_v2_pb2.py")
    spec = importlib.util.spec_from_file_location(_NAME, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[_NAME] = module
    spec.loader.exec_module(module)
    return module


def method_path(method: str) -> str:
    """The full gRPC path of a V2 method, as `channel.unary_unary` takes it."""
    return f"/{SERVICE}/{method}"
