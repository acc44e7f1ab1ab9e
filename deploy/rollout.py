"""Whether the pods that run are the ones that the release asks for.

An InferenceService stays Ready on its old pods while new ones cannot start, so Ready alone says nothing of an upgrade.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from deploy.pods import describe_waiting_pods, find_hopeless_pod
from deploy.tools import DeployFailed, Object, get_object, say

CONTAINER = "kserve-container"
STORAGE_URI = "internal.serving.kserve.io/storage-initializer-sourceuri"
POLL_SECONDS = 1.0
SETTLED = 3  # looks in a row that find nothing to wait for: KServe takes a moment to see a change


@dataclass(frozen=True)
class Wanted:
    """What a part's pods are to run."""

    image: str
    arguments: tuple[str, ...]
    storage_uri: str = ""


def wait_for_rollout(namespace: str, release: str, timeout: float) -> None:
    """Return when both parts serve what the release says; raises DeployFailed when they cannot, or take too long."""
    end, said, agreed = time.monotonic() + timeout, "", 0
    while agreed < SETTLED:
        lag = find_lag(namespace, release)
        agreed = 0 if lag else agreed + 1
        if lag and lag != said:
            say(f"waiting: {lag}")
            said = lag
        if lag and time.monotonic() > end:
            raise DeployFailed(
                f"not rolled out within {timeout:.0f} s: {lag}{describe_waiting_pods(namespace, release)}"
            )
        time.sleep(POLL_SECONDS)


def find_lag(namespace: str, release: str) -> str:
    """What is not yet as it should be, empty when all is; raises DeployFailed when it will never be.

    The InferenceService's observedGeneration is no help: KServe copies it from the transformer's Deployment.
    """
    service = get_object(namespace, "inferenceservice", release)
    runtime = get_object(namespace, "servingruntime", release)
    if not service or not runtime:
        return f"there is no InferenceService or no ServingRuntime {release}"
    lags = [
        f"{part}: {lag}"
        for part, wanted in read_wanted(service, runtime).items()
        if (lag := _part_lag(namespace, release, part, wanted))
    ]
    return lags[0] if lags else _ready_lag(service.get("status", {}))


def _part_lag(namespace: str, release: str, part: str, wanted: Wanted) -> str:
    deployment = get_object(namespace, "deployment", f"{release}-{part}")
    if lag := _template_lag(deployment, wanted):
        return lag
    lag = _rollout_lag(deployment)
    if lag and (reason := find_hopeless_pod(namespace, f"app=isvc.{release}-{part}")):
        raise DeployFailed(f"a new {part} does not start: {reason}")
    return lag


def _ready_lag(status: Object) -> str:
    for condition in status.get("conditions", ()):
        if condition["type"] == "Ready" and condition["status"] == "True":
            return ""
    waiting = [c for c in status.get("conditions", ()) if c["status"] != "True" and c.get("severity") != "Info"]
    return "not Ready: " + (
        ", ".join(f"{c['type']} {c.get('message', '')}".strip() for c in waiting) or "no status yet"
    )


def read_wanted(service: Object, runtime: Object) -> dict[str, Wanted]:
    """Per part, from the InferenceService and its ServingRuntime as they are on the cluster."""
    model = service["spec"]["predictor"]["model"]
    program = runtime["spec"]["containers"][0]
    transformer = service["spec"]["transformer"]["containers"][0]
    return {
        "predictor": Wanted(
            model.get("image") or program["image"],
            (*program.get("args", ()), *model.get("args", ())),
            model.get("storageUri", ""),
        ),
        "transformer": Wanted(transformer["image"], tuple(transformer.get("args", ()))),
    }


def _template_lag(deployment: Object, wanted: Wanted) -> str:
    if not deployment:
        return "KServe has not made the Deployment yet"
    template = deployment["spec"]["template"]
    container = next(c for c in template["spec"]["containers"] if c["name"] == CONTAINER)
    if container["image"] != wanted.image or not _begins(container.get("args", ()), wanted.arguments):
        return "the Deployment does not have the new image and arguments yet"
    if wanted.storage_uri and template["metadata"]["annotations"].get(STORAGE_URI) != wanted.storage_uri:
        return "the Deployment does not have the new model yet"
    return ""


def _begins(arguments: Sequence[str], wanted: Sequence[str]) -> bool:
    """KServe adds its own arguments at the end."""
    return list(arguments[: len(wanted)]) == list(wanted)


def _rollout_lag(deployment: Object) -> str:
    """As `kubectl rollout status` judges."""
    status, replicas = deployment.get("status", {}), deployment["spec"].get("replicas", 1)
    if status.get("observedGeneration", 0) < deployment["metadata"]["generation"]:
        return "the Deployment's change has not been seen yet"
    if status.get("updatedReplicas", 0) < replicas:
        refused = [c["message"] for c in status.get("conditions", ()) if c["type"] == "ReplicaFailure"]
        return ": ".join((f"{status.get('updatedReplicas', 0)} of {replicas} new pods made", *refused))
    if status.get("replicas", 0) > status["updatedReplicas"]:
        return "old pods are still there"
    if status.get("availableReplicas", 0) < status["updatedReplicas"]:
        return f"{status.get('availableReplicas', 0)} of {status['updatedReplicas']} new pods available"
    return ""
