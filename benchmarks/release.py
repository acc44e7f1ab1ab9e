"""A release of the chart that is installed on the cluster of KUBECONFIG, and its pods."""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from benchmarks.pixel_load import sum_requests
from deploy.tools import call, get_object, list_objects
from serving.errors import ArtefactError

PARTS = ("predictor", "transformer")
PORTS = {"http": 8080, "metrics": 8082}
PATIENCE = 300.0  # seconds until the pods are there


@dataclass(frozen=True)
class ScaledRelease:
    """An InferenceService and its pods."""

    namespace: str
    name: str

    def find_host(self) -> str:
        """The host name that the front door knows it by; raises ArtefactError where KServe has given it none."""
        url: str = get_object(self.namespace, "inferenceservice", self.name).get("status", {}).get("url", "")
        if not url:
            where = f"InferenceService {self.name} with an address in namespace {self.namespace}"
            raise ArtefactError(f"there is no {where}: install it, on a cluster where KServe's controller runs")
        return url.split("://")[1]

    def scale(self, part: str, replicas: int) -> None:
        """Pin a part to this many pods, and wait until they are ready and the others are gone."""
        limits = {"minReplicas": replicas, "maxReplicas": replicas}
        self._patch({part: limits})
        deployment = f"{self.name}-{part}"
        end = time.monotonic() + PATIENCE
        while len(self.pods(part)) != replicas or self._ready(deployment) != replicas:
            if time.monotonic() > end:
                raise ArtefactError(f"deployment {deployment} did not come to {replicas} pods within {PATIENCE:.0f} s")
            time.sleep(1)

    def _patch(self, spec: Mapping[str, Any]) -> None:
        change = json.dumps({"spec": spec})
        call("kubectl", "patch", "isvc", self.name, "-n", self.namespace, "--type", "merge", "--patch", change)

    def _ready(self, deployment: str) -> int:
        return int(get_object(self.namespace, "deployment", deployment).get("status", {}).get("readyReplicas", 0))

    @contextmanager
    def restored(self) -> Iterator[None]:
        """The replicas of before, after the block."""
        spec = get_object(self.namespace, "inferenceservice", self.name)["spec"]
        before = {part: {key: spec[part].get(key) for key in ("minReplicas", "maxReplicas")} for part in PARTS}
        try:
            yield
        finally:
            self._patch(before)

    def pods(self, part: str) -> list[dict[str, Any]]:
        """Those that are not being deleted."""
        found = list_objects(self.namespace, "pod", f"app=isvc.{self.name}-{part}")
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def count(self, part: str) -> dict[str, float]:
        """Requests that each pod has answered."""
        return {name: self._counter(name) for name in (pod["metadata"]["name"] for pod in self.pods(part))}

    def _counter(self, pod: str) -> float:
        path = f"/api/v1/namespaces/{self.namespace}/pods/{pod}:{PORTS['metrics']}/proxy/metrics"
        return sum_requests(call("kubectl", "get", "--raw", path))

    def cpu_limit(self, part: str) -> str:
        """Of the first container of the part's first pod."""
        containers = self.pods(part)[0]["spec"]["containers"]
        return str(containers[0].get("resources", {}).get("limits", {}).get("cpu", "none"))


def find_gateway() -> str:
    """HOST:PORT of the front door, as KServe's Gateway says."""
    status = get_object("kserve", "gateway", "kserve-ingress-gateway").get("status", {})
    if not status.get("addresses"):
        raise ArtefactError("KServe's Gateway has no address; name the front door in INGRESS=HOST:PORT")
    return f"{status['addresses'][0]['value']}:80"
