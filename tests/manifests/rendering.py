"""What helm and kustomize make of the chart and the overlays."""

import functools
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from docs.make_manifests import CHART, MANIFESTS, render_chart

Object = dict[str, Any]

TOOLS = CHART.parent / ".tools"  # of `make promtool`
OVERLAYS = sorted(path.parent.relative_to(MANIFESTS / "overlays") for path in MANIFESTS.glob("overlays/*/kustomiz*"))


def find_program(name: str) -> str:
    """Where a program is, by $NAME, PATH or .tools/; skips the test without it."""
    found = os.environ.get(name.upper()) or shutil.which(name) or shutil.which(name, path=TOOLS)
    if not found:
        pytest.skip(f"no {name}: put it on PATH or name it in {name.upper()}")
    return found


def run(*command: str, stdin: str = "") -> "subprocess.CompletedProcess[str]":
    """Run to the end, whatever the exit code."""
    return subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, timeout=60)


def refusal(*options: str) -> str:
    """What helm says to values that it must refuse."""
    result = run(find_program("helm"), "template", "doggos", str(CHART), *options)
    assert result.returncode != 0, "helm took it"
    return result.stderr


def chart(values: str = "", release: str = "doggos") -> list[Object]:
    """The chart's objects with values as for --set."""
    return read_objects(_render(values, release))


def overlay(name: str | Path) -> list[Object]:
    """The objects of manifests/overlays/NAME."""
    return read_objects(build_overlay(name))


def read_objects(text: str) -> list[Object]:
    """The documents that are not empty."""
    return [document for document in yaml.load_all(text, yaml.CSafeLoader) if document]


@functools.cache
def _render(values: str, release: str) -> str:
    return render_chart(release, *(["--set", values] if values else []), helm=find_program("helm"))


@functools.cache
def build_overlay(name: str | Path) -> str:
    """What kustomize makes of manifests/overlays/NAME."""
    result = run(find_program("kubectl"), "kustomize", str(MANIFESTS / "overlays" / name))
    assert result.returncode == 0, result.stderr
    return result.stdout


def one(objects: Sequence[Object], kind: str, name: str = "") -> Object:
    """The only object of its kind, or the one with that name."""
    (found,) = [o for o in objects if o["kind"] == kind and name in ("", o["metadata"]["name"])]
    return found


def without_namespace(objects: Sequence[Object]) -> dict[tuple[str, str], Object]:
    """Objects by kind and name."""
    for document in objects:
        document["metadata"].pop("namespace", None)
    return {(o["kind"], o["metadata"]["name"]): o for o in objects}


def pod_specs(objects: Sequence[Object]) -> Iterator[tuple[str, Object]]:
    """Each pod as KServe makes it of these objects: the runtime's containers below the model's own fields."""
    runtimes = {o["metadata"]["name"]: o["spec"] for o in objects if o["kind"] == "ServingRuntime"}
    for service in (o for o in objects if o["kind"] == "InferenceService"):
        predictor = service["spec"]["predictor"]
        runtime = runtimes[predictor["model"]["runtime"]]
        container = {**runtime["containers"][0], **{k: v for k, v in predictor["model"].items() if k != "args"}}
        container["args"] = runtime["containers"][0].get("args", []) + predictor["model"]["args"]
        yield (
            f"{service['metadata']['name']}-predictor",
            predictor
            | {
                "containers": [container, *predictor.get("containers", [])],
                "volumes": [*runtime.get("volumes", []), *predictor.get("volumes", [])],
            },
        )
        if "transformer" in service["spec"]:
            yield f"{service['metadata']['name']}-transformer", service["spec"]["transformer"]
