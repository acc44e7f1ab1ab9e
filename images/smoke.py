"""Run inside an image while it is built: what a target must have and must not have, and that its program starts."""

import importlib.util
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

ANY_PORTS = ("--http_port", "0", "--grpc_port", "0", "--metrics_port", "0")  # a build may share the machine's
TOOLS = ("pip", "setuptools", "pytest", "openvino_telemetry", "nncf", "tests")
OF_TORCH = ("torch", "triton", "transformers", "mlflow", "onnx")
IMPORTED = {
    "transformer": ("transformer.startup", "transformer.routes", "transformer.embed", "serving.lifecycle"),
    "predictor": ("predictor.startup", "predictor.source", "predictor.train", "predictor.export", "serving.lifecycle"),
    "predictor-cpu": ("predictor.startup", "predictor.openvino", "serving.lifecycle"),
}
ABSENT = {
    "transformer": (*TOOLS, *OF_TORCH, "openvino", "predictor"),
    "predictor": (*TOOLS, "transformer"),
    "predictor-cpu": (*TOOLS, *OF_TORCH, "transformer"),
}
# A server that finds nothing to serve ends with this exit code and says what is missing.
UNUSABLE = {
    "transformer": (["transformer", "--predictor_host", "127.0.0.1:1"], 1, "/mnt/index"),
    "predictor": (["predictor"], 1, "/mnt/models"),
    "predictor-cpu": (["predictor", "--engine", "openvino"], 1, "/mnt/models"),
}


def check(target: str) -> None:
    """Fail the build with the first thing that is not as it must be."""
    sys.path.insert(0, str(Path.cwd()))
    assert os.getuid() != 0, "the image runs as root"
    writable = [path for path in ("/app", "/opt/venv") if os.access(path, os.W_OK)]
    assert not writable, f"the image can change {writable}"
    unwanted = [name for name in ABSENT[target] if find_spec(name)]
    assert not unwanted, f"{target} must not have {unwanted}"
    sources = list(Path.cwd().rglob("*.py"))
    assert sources and all(Path(importlib.util.cache_from_source(str(path))).exists() for path in sources)
    for name in IMPORTED[target]:
        importlib.import_module(name)
    check_start(*UNUSABLE[target])


def check_start(arguments: list[str], code: int, missing: str) -> None:
    """Start the server as the image does, with an environment as bare as a pod's may be."""
    done = subprocess.run(
        [sys.executable, "-m", *arguments, *ANY_PORTS],
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    last = (done.stderr.strip().splitlines() or [""])[-1]
    assert done.returncode == code and last.startswith("error: ") and missing in last, (done.returncode, done.stderr)


if __name__ == "__main__":
    check(sys.argv[1])
