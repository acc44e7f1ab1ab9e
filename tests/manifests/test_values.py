"""Values that the chart must refuse, by name."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from docs.make_manifests import CHART
from tests.manifests.rendering import find_program, refusal, run

SCHEMA = json.loads((CHART / "values.schema.json").read_text())


def test_lint_has_nothing_to_say() -> None:
    result = run(find_program("helm"), "lint", "--strict", str(CHART))
    assert result.returncode == 0, result.stdout + result.stderr


def test_values_stay_readable() -> None:
    assert len((CHART / "values.yaml").read_text().splitlines()) <= 150


def objects(schema: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(schema, dict):
        if "properties" in schema and "type" in schema:
            yield path, schema
        for key, value in schema.items():
            yield from objects(value, f"{path}/{key}")


def test_every_part_of_the_schema_refuses_unknown_keys() -> None:
    assert [path for path, schema in objects(SCHEMA) if schema["additionalProperties"] is not False] == []


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ("replicas=3", "replicas"),
        ("predictor.maxbatch=3", "maxbatch"),
        ("transformer.downloads.time=3", "time"),
        ("scaling.keda.treshold=3", "treshold"),
        ("ingress.route.host=a.example.com", "host"),
        ("scaling.kind=knative", "kind"),
        ("predictor.resources.limits.memory=2 GB", "memory"),
        ("transformer.image.digest=sha256:abc", "digest"),
        ("image.tag=latest", "tag"),
        ("artefacts.model=/srv/model", "model"),
        ("artefacts.model=models:/doggos@champion", "model"),
        ("artefacts.mlflow.model=models:/doggos@champion", "model"),
        ("artefacts.mlflow.run=best run", "run"),
        ("artefacts.mlflow.run=experiment:doggos", "run"),
        ("predictor.args={--mlflow_experiment=doggos}", "args"),
        ("transformer.args={--predictor_host=elsewhere}", "args"),
        ("transformer.args={--predictor_protocol=grpc-v2}", "args"),
        ("ingress.kind=route", "hostnames"),
    ],
)
def test_a_wrong_value_is_refused_with_its_name(value: str, named: str) -> None:
    assert named in refusal("--set", value).split("specifications of the schema")[1]


@pytest.mark.parametrize(
    "values",
    [
        "artefacts.mlflow.uri=http://mlflow",
        "artefacts.mlflow.uri=http://mlflow,artefacts.mlflow.run=a1,artefacts.mlflow.model=models:/doggos/1",
        "artefacts.mlflow.run=a1",
    ],
)
def test_mlflow_takes_an_address_and_exactly_one_pinned_reference(values: str) -> None:
    assert "/artefacts/mlflow" in refusal("--set", f"predictor.gpu.resource=nvidia.com/gpu,{values}")


def test_a_head_from_mlflow_needs_the_image_that_can_read_it() -> None:
    assert "torch" in refusal("--set", "artefacts.mlflow.uri=http://mlflow,artefacts.mlflow.run=a1")
