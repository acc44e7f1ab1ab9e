"""What a deployment says of a pod that does not start."""

import yaml

from deploy.pods import find_last_words
from tests.callers import wait_until
from tests.cluster import kube
from tests.cluster.artefacts import ROOT
from tests.cluster.release import base_values

# Ends with a reason the first time, and says nothing the second.
PROGRAM = "[ -e /ran/once ] && exec sleep 600; touch /ran/once; echo that is why; exit 1"


def test_the_last_words_are_those_of_the_run_that_ended(namespace: str) -> None:
    image = base_values()["image"]
    tag = image["tag"] or yaml.safe_load((ROOT / "helm" / "Chart.yaml").read_text())["appVersion"]
    container = {
        "name": "program",
        "image": f"{image['registry']}/doggos-transformer:{tag}",
        "command": ["sh", "-c", PROGRAM],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [{"name": "ran", "mountPath": "/ran"}],
    }
    spec = {
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 1,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
        "volumes": [{"name": "ran", "emptyDir": {}}],
    }
    kube.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "ends", "namespace": namespace}, "spec": spec})

    def runs_again() -> bool:
        state = "jsonpath={.status.containerStatuses[0].restartCount}{.status.containerStatuses[0].state.running}"
        return kube.kubectl("get", "pod", "ends", "--namespace", namespace, "--output", state).startswith('1{"')

    wait_until(runs_again, "the second run", 90)
    assert find_last_words(namespace, "ends") == " (ends: that is why)"
