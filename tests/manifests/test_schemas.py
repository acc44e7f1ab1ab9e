"""Every object fits the resource definitions of KServe and the gateway, where those are found."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.manifests.rendering import OVERLAYS, build_overlay, find_program, render_chart, run
from tests.manifests.test_chart import EVERYTHING

CUSTOM = ("InferenceService", "ServingRuntime", "HTTPRoute", "BackendTrafficPolicy")


@pytest.fixture(scope="session")
def schemas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """JSON schemas of the definitions in the files that $CRDS names, strict as the API server is."""
    files = [Path(name) for name in os.environ.get("CRDS", "").split(":") if name]
    if not files:
        pytest.skip("CRDS names no files with resource definitions")
    folder = tmp_path_factory.mktemp("schemas")
    definitions = [d for file in files for d in yaml.load_all(file.read_text(), yaml.CSafeLoader) if d]
    for spec in (d["spec"] for d in definitions if d["kind"] == "CustomResourceDefinition"):
        for version in spec["versions"] if spec["names"]["kind"] in CUSTOM else ():
            schema = version["schema"]["openAPIV3Schema"]
            close(schema["properties"]["spec"])
            (folder / f"{spec['names']['kind'].lower()}_{version['name']}.json").write_text(json.dumps(schema))
    return folder


def close(schema: Any) -> None:
    """Refuse unknown fields, which the API server would drop."""
    if isinstance(schema, list):
        for part in schema:
            close(part)
    elif isinstance(schema, dict):
        if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
            schema.setdefault("additionalProperties", False)
        for part in schema.values():
            close(part)


def check(schemas: Path, objects: str) -> dict[str, Any]:
    result = run(
        find_program("kubeconform"), "-strict", "-ignore-missing-schemas", "-output", "json", "-summary",
        "-schema-location", f"{schemas}/{{{{.ResourceKind}}}}_{{{{.ResourceAPIVersion}}}}.json",
        stdin=objects,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout
    return dict(json.loads(result.stdout)["summary"])


@pytest.mark.parametrize("name", OVERLAYS, ids=str)
def test_an_overlay_fits(schemas: Path, name: str) -> None:
    assert check(schemas, build_overlay(name))["valid"] >= 2


def test_the_chart_with_everything_fits(schemas: Path) -> None:
    assert check(schemas, render_chart("doggos", "--set", EVERYTHING, helm=find_program("helm")))["valid"] == 4


def test_a_typo_does_not_fit(schemas: Path) -> None:
    text = render_chart("doggos", helm=find_program("helm")).replace("minReplicas", "minReplica")
    with pytest.raises(AssertionError, match="minReplica"):
        check(schemas, text)
