"""The cluster that KUBECONFIG names, and what tests put on it."""

import json
import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from deploy.tools import call

RESTRICTED = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn", "audit")}
CLAIM = "doggos-artefacts"
WEBHOOK = "inferenceservice.serving.kserve.io"
GATEWAY = "kserve/kserve-ingress-gateway"


def kubectl(*arguments: str, stdin: str | None = None) -> str:
    return call("kubectl", *arguments, stdin=stdin)


def apply(*objects: dict[str, Any]) -> None:
    """Create or change objects, as they are given."""
    kubectl("apply", "--server-side", "--filename", "-", stdin="\n---\n".join(json.dumps(o) for o in objects))


def find_obstacle() -> str:
    """Why nothing can be tried here; empty when there is a cluster with KServe's resource definitions."""
    if not os.environ.get("KUBECONFIG"):
        return "KUBECONFIG names no cluster"
    if "inferenceservices" not in kubectl("get", "crd", "--output", "name"):
        return "the cluster has no KServe"
    return ""


def find_controller_obstacle() -> str:
    """Why no InferenceService would get pods; empty when KServe's controller runs."""
    if obstacle := find_obstacle():
        return obstacle
    there = kubectl("get", "validatingwebhookconfiguration", WEBHOOK, "--ignore-not-found", "--output", "name")
    return "" if there else "no KServe controller runs on the cluster"


@contextmanager
def namespace(prefix: str, artefacts: Path) -> Iterator[str]:
    """A namespace that enforces PodSecurity restricted and has the claim with the artefacts; gone afterwards."""
    name = f"{prefix}-{uuid.uuid4().hex[:6]}"
    apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": RESTRICTED}})
    try:
        apply(*_volume(name, artefacts))
        yield name
    finally:
        if not os.environ.get("KEEP_NAMESPACES"):
            kubectl("delete", "namespace", name, "--wait=false")
            kubectl("delete", "persistentvolume", f"{name}-artefacts", "--wait=false")


def _volume(name: str, artefacts: Path) -> Sequence[dict[str, Any]]:
    """A folder of the node as a claim: the cluster must see this machine's files, or ARTEFACTS names its own folder."""
    size, modes = {"storage": "1Gi"}, ["ReadOnlyMany"]
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": f"{name}-artefacts"},
        "spec": {
            "capacity": size,
            "accessModes": modes,
            "storageClassName": "",
            "claimRef": {"namespace": name, "name": CLAIM},
            "hostPath": {"path": os.environ.get("ARTEFACTS", str(artefacts)), "type": "Directory"},
        },
    }
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": CLAIM, "namespace": name},
        "spec": {"accessModes": modes, "storageClassName": "", "resources": {"requests": size}},
    }
    return volume, claim


def find_ingress() -> str:
    """Address of the front door: INGRESS, or what KServe's Gateway says."""
    if given := os.environ.get("INGRESS"):
        return given
    space, name = GATEWAY.split("/")
    found = json.loads(kubectl("get", "gateway", name, "--namespace", space, "--output", "json"))
    return f"{found['status']['addresses'][0]['value']}:80"


def find_host(space: str, release: str) -> str:
    """The host name that the front door knows the InferenceService by."""
    url = kubectl("get", "isvc", release, "--namespace", space, "--output", "jsonpath={.status.url}")
    return url.split("://")[1]


def query_prometheus(address: str, query: str) -> list[dict[str, Any]]:
    """The samples that a query finds."""
    answer = httpx.get(f"http://{address}/api/v1/query", params={"query": query}, timeout=10)
    found: list[dict[str, Any]] = answer.json()["data"]["result"]
    return found
