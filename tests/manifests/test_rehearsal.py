"""What a deployment rehearses by itself, and what the rehearsal runs."""

import pytest

from deploy.artefacts import find_changed
from deploy.release import REHEARSED
from docs.make_manifests import render_chart
from tests.manifests.rendering import Object, chart, find_program, one

MLFLOW = "artefacts.mlflow.uri=http://mlflow:5000,predictor.image.name=doggos-predictor,artefacts.mlflow.model=models:/doggos"
CHANGES = {
    "image.tag=0.2.0,scaling.predictor.minReplicas=2,predictor.maxBatch=16,transformer.args={--k=3}": [],
    "artefacts.model=pvc://doggos-artefacts/model-8": ["model"],
    "artefacts.model=s3://bucket/model": ["model"],
    "artefacts.clipPath=.": ["model"],
    f"{MLFLOW}/7": ["model"],
    "artefacts.index=pvc://doggos-artefacts/index-8": ["index"],
    "artefacts.index=pvc://other/index": ["index"],
    "artefacts.index=s3://bucket/index,artefacts.model=s3://bucket/model": ["model", "index"],
}


def manifest(values: str) -> str:
    return render_chart("doggos", *(["--set", values] if values else []), helm=find_program("helm"))


@pytest.mark.parametrize("values", CHANGES)
def test_another_model_or_index_is_seen(values: str) -> None:
    assert find_changed(manifest(""), manifest(values)) == CHANGES[values]
    assert find_changed(manifest(values), manifest(values)) == []


def test_another_version_of_the_head_is_seen() -> None:
    assert find_changed(manifest(f"{MLFLOW}/7"), manifest(f"{MLFLOW}/8")) == ["model"]


def test_a_release_of_something_else_has_other_artefacts() -> None:
    assert find_changed("", manifest("")) == ["model", "index"]


@pytest.mark.parametrize("resource", ["", "nvidia.com/gpu"])
def test_a_rehearsal_has_the_image_of_the_release_and_takes_no_gpu(resource: str) -> None:
    values = f"predictor.gpu.resource={resource}"
    rehearsed = chart(f"{values},{REHEARSED}", "doggos-rehearsal")
    assert image_of(rehearsed) == image_of(chart(values))
    model = one(rehearsed, "InferenceService")["spec"]["predictor"]["model"]
    assert set(model["resources"]["limits"]) == {"cpu", "memory"}
    assert "--device=cuda" not in model["args"]
    assert ("--device=cpu" in model["args"]) == bool(resource)


def image_of(objects: list[Object]) -> str:
    (container,) = one(objects, "ServingRuntime")["spec"]["containers"]
    return str(container["image"])
