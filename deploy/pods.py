"""The pods of a release that are not ready, why, and what they said last."""

import contextlib
import time
from collections.abc import Sequence

from deploy.tools import DeployFailed, Object, call, get_object, list_objects

HOPELESS = {"ImagePullBackOff", "InvalidImageName", "CreateContainerConfigError", "CreateContainerError"}
CRASHES = 2  # of the same new pod, until it counts as hopeless
LOOK_SECONDS = 1.0  # between looks at logs, while containers come and go
REMOVED = "unable to retrieve container logs"  # what kubectl prints for one that the node has just removed


def find_hopeless_pod(namespace: str, app: str) -> str:
    """A new pod that will not start, and why; empty when there is none."""
    for pod in _newest_pods(namespace, app):
        if reason := _why_not_started(pod):
            return f"{reason}{_last_words(namespace, pod)}"
    return ""


def describe_waiting_pods(namespace: str, release: str) -> str:
    """The new pods that are not ready, with their last words."""
    parts = [f"app=isvc.{release}-{part}" for part in ("predictor", "transformer")]
    pods = [pod for app in parts for pod in _newest_pods(namespace, app) if not _is_ready(pod)]
    return "".join(_last_words(namespace, pod) for pod in pods)


def find_last_words(namespace: str, pod: str) -> str:
    """Of a pod by its name; empty when it is not there."""
    found = get_object(namespace, "pod", pod)
    return _last_words(namespace, found) if found else ""


def _is_ready(pod: Object) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod.get("status", {}).get("conditions", ()))


def _newest_pods(namespace: str, app: str) -> list[Object]:
    """The pods of the newest template."""
    newest = max(list_objects(namespace, "replicaset", app), key=_revision, default=None)
    if newest is None:
        return []
    template = f"pod-template-hash={newest['metadata']['labels']['pod-template-hash']}"
    return list_objects(namespace, "pod", f"{app},{template}")


def _last_words(namespace: str, pod: Object) -> str:
    """Where to look further: a pod, and the last line that it logged or why no node takes it."""
    name = pod["metadata"]["name"]
    for condition in pod.get("status", {}).get("conditions", ()):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return f" ({name}: {condition.get('message', '')})"
    line = _last_line(namespace, pod)
    return f" ({name}: {line})" if line else f" ({name})"


def _last_line(namespace: str, pod: Object) -> str:
    """Logged by the container that failed, not by the one that has just begun in its place."""
    for number, log in enumerate(_logs(pod)):
        time.sleep(LOOK_SECONDS if number else 0)
        if line := _read_last_line(namespace, pod["metadata"]["name"], log):
            return line
    return ""


def _logs(pod: Object) -> list[tuple[str, ...]]:
    """Flags of the logs to look at, the best first."""
    failed = [container for container in _containers(pod) if _ended(container).get("exitCode")]
    if not failed:
        return [()]
    one = min(failed, key=lambda container: bool(container.get("ready")))
    this = ("--container", one["name"])
    before = (*this, "--previous")
    return [this, before] if "terminated" in one.get("state", {}) else [before, before, before, this]


def _read_last_line(namespace: str, pod: str, log: Sequence[str]) -> str:
    with contextlib.suppress(DeployFailed):  # it may never have logged
        line = call("kubectl", "logs", pod, "--namespace", namespace, "--tail", "1", *log).strip()
        return "" if line.startswith(REMOVED) else line
    return ""


def _revision(replica_set: Object) -> int:
    return int(replica_set["metadata"]["annotations"].get("deployment.kubernetes.io/revision", 0))


def _why_not_started(pod: Object) -> str:
    for container in _containers(pod):
        waiting = container.get("state", {}).get("waiting", {})
        if waiting.get("reason") in HOPELESS:
            return f"{waiting['reason']}: {waiting.get('message', '')}"
        ended = _ended(container)
        if ended.get("exitCode") and container.get("restartCount", 0) >= CRASHES:
            return f"it ended with exit code {ended['exitCode']} {container['restartCount']} times"
    return ""


def _ended(container: Object) -> Object:
    """How its last run that is over ended; {} when none is."""
    found: Object = (
        container.get("state", {}).get("terminated") or container.get("lastState", {}).get("terminated") or {}
    )
    return found


def _containers(pod: Object) -> list[Object]:
    """What the pod's status says of each, those that only prepare first."""
    status = pod.get("status", {})
    return [*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())]
