"""The chart and the overlays under KServe's controller, from an empty namespace to an answer."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from docs.make_manifests import CHART, MANIFESTS
from tests.callers import wait_until
from tests.cluster import kube
from tests.cluster.load import Door
from tests.cluster.release import RELEASE, Release
from tests.manifests.rendering import OVERLAYS, Object, chart, overlay
from tests.manifests.test_chart import EVERYTHING

REGISTRY = os.environ.get("IMAGE_REGISTRY", "localhost:5000")


@pytest.fixture(scope="module")
def installed(namespace: str, tmp_path_factory: pytest.TempPathFactory) -> Release:
    """The chart, installed as a person would, and ready."""
    release = Release(namespace, tmp_path_factory.mktemp("release"))
    values = release.folder / "values.yaml"
    values.write_text(json.dumps(release.values))
    kube.call("helm", "upgrade", "--install", RELEASE, str(CHART), "--namespace", namespace, "--values", str(values))
    wait_until_ready(namespace)
    return release


def wait_until_ready(namespace: str) -> None:
    ready = ("wait", "--for=condition=Ready", "--timeout=180s", f"inferenceservice/{RELEASE}")
    kube.kubectl(*ready, "--namespace", namespace)


def test_the_front_door_answers_rest_and_grpc_alike(installed: Release) -> None:
    with installed.door().rest() as rest, installed.door().grpc() as grpc_call:
        assert rest() == grpc_call()


def test_helm_test_asks_by_every_protocol(installed: Release) -> None:
    logs = kube.call("helm", "test", RELEASE, "--namespace", installed.namespace, "--logs", "--timeout", "2m")
    assert "POST /predict/" in logs
    assert "ModelInfer: classes" in logs


def test_the_pods_have_no_sidecar_no_token_and_no_service_links(installed: Release) -> None:
    for part in ("predictor", "transformer"):
        (pod,) = installed.pods(part)
        (container,) = pod["spec"]["containers"]
        assert "/tmp" in [mount["mountPath"] for mount in container["volumeMounts"]]
        assert not [v for v in pod["spec"]["volumes"] if "projected" in v]
        assert pod["spec"]["enableServiceLinks"] is False


def dry_run(namespace: str, objects: list[Object]) -> None:
    """What the API server and KServe's webhooks say to these objects."""
    for document in objects:
        document["metadata"].pop("namespace", None)
    text = "\n---\n".join(json.dumps(document) for document in objects)
    kube.kubectl("apply", "--dry-run=server", "--validate=strict", "-n", namespace, "-f", "-", stdin=text)


@pytest.fixture(scope="module")
def empty(artefacts: Path) -> Iterator[str]:
    """A second namespace."""
    with kube.namespace("chart-empty", artefacts) as name:
        yield name


@pytest.mark.parametrize("name", OVERLAYS, ids=str)
def test_the_api_server_takes_every_overlay(empty: str, name: str) -> None:
    dry_run(empty, overlay(name))


def test_the_api_server_takes_everything_that_the_chart_has(empty: str) -> None:
    policies = yaml.safe_load_all((MANIFESTS / "components/gateway-policies/policies.yaml").read_text())
    of_prometheus_operator = ("PodMonitor", "PrometheusRule")
    dry_run(empty, [o for o in [*chart(EVERYTHING), *policies] if o["kind"] not in of_prometheus_operator])


@pytest.mark.parametrize("name", ["cpu", "collocated"])
def test_kubectl_apply_k_gives_a_service_that_answers(artefacts: Path, tmp_path: Path, name: str) -> None:
    with kube.namespace(f"chart-{name}", artefacts) as namespace:
        kube.kubectl("apply", "--namespace", namespace, "--kustomize", str(of_a_user(tmp_path, name)))
        wait_until_ready(namespace)
        door = Door(kube.find_ingress(), kube.find_host(namespace, RELEASE))
        with door.rest() as ask:
            wait_until(lambda: answers(ask), "the route", timeout=30)
        with door.grpc() as ask:
            assert len(ask()) == 3


def answers(ask: Any) -> bool:
    try:
        return len(ask()) == 3
    except RuntimeError:
        return False


def of_a_user(folder: Path, name: str) -> Path:
    """A kustomization on top of an overlay: own images, own artefacts, less CPU than a node of a test has."""
    small = {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"cpu": "2", "memory": "1Gi"}}
    transformer = "/spec/predictor/containers/0" if name == "collocated" else "/spec/transformer/containers/0"
    patch = [
        {"op": "replace", "path": "/spec/predictor/model/resources", "value": small},
        {"op": "replace", "path": f"{transformer}/resources", "value": small},
    ]
    if name == "collocated":
        at = {"op": "replace", "path": "/spec/predictor/model/args/8"}
        patch += [
            {**at, "value": "--model_dir=/mnt/models/model/v1"},
            {"op": "replace", "path": f"{transformer}/args/7", "value": "--index_dir=/mnt/models/index/v1"},
        ]
    else:
        uri, path = "/spec/predictor/model/storageUri", f"{transformer}/volumeMounts/1/subPath"
        patch += [
            {"op": "replace", "path": uri, "value": f"pvc://{kube.CLAIM}/model/v1"},
            {"op": "replace", "path": path, "value": "index/v1"},
        ]
    tag = {"newTag": os.environ["IMAGE_TAG"]} if os.environ.get("IMAGE_TAG") else {}
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [os.path.relpath(MANIFESTS / "overlays" / name, folder)],
        "images": [
            {"name": f"ghcr.io/doggos-on-kserve/{image}", "newName": f"{REGISTRY}/{image}", **tag}
            for image in ("doggos-transformer", "doggos-predictor-cpu")
        ],
        "patches": [{"target": {"kind": "InferenceService"}, "patch": json.dumps(patch)}],
    }
    (folder / "kustomization.yaml").write_text(json.dumps(kustomization))
    return folder
