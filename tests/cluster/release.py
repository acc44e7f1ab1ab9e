"""A release of the chart in a test's namespace, changed by the deploy program as a pipeline would."""

import contextlib
import copy
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deploy.tools import DeployFailed
from tests.cluster import kube
from tests.cluster.artefacts import ROOT
from tests.cluster.load import Door

RELEASE = "doggos"
KNOWN_SECONDS = 12.0
"""After which every transformer sends to a new predictor: 5 s in the DNS's cache, 5 s between questions to it."""
Values = dict[str, Any]


def base_values() -> Values:
    """Small enough for one node with two cores; one pod of each part."""
    small = {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"cpu": "2", "memory": "1Gi"}}
    return {
        "image": {
            "registry": os.environ.get("IMAGE_REGISTRY", "localhost:5000"),
            "tag": os.environ.get("IMAGE_TAG", ""),
        },
        "artefacts": {"model": f"pvc://{kube.CLAIM}/model/v1", "index": f"pvc://{kube.CLAIM}/index/v1"},
        "predictor": {"resources": small},
        "transformer": {"resources": small},
        "scaling": {"kind": "none", "predictor": {"minReplicas": 1}, "transformer": {"minReplicas": 1}},
    }


def merge(values: Values, changes: Mapping[str, Any]) -> Values:
    """`changes` over a copy of `values`, key by key."""
    merged = copy.deepcopy(values)
    for key, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both else value
    return merged


@dataclass
class Release:
    """The release and the values that it was last deployed with."""

    namespace: str
    folder: Path
    values: Values = field(default_factory=base_values)

    def deploy(self, changes: Mapping[str, Any], *flags: str, timeout: int = 180) -> None:
        """Change it, and expect that to succeed."""
        self.values = merge(self.values, changes)
        done = self._run(self.values, timeout, flags)
        assert done.returncode == 0, done.stderr

    def fail(self, changes: Mapping[str, Any], *flags: str, timeout: int = 90) -> str:
        """Change it, and expect that to fail; what the program said."""
        done = self._run(merge(self.values, changes), timeout, flags)
        assert done.returncode == 1, done.stderr
        return done.stderr

    def _run(self, values: Values, timeout: int, flags: tuple[str, ...]) -> "subprocess.CompletedProcess[str]":
        file = self.folder / "values.yaml"
        file.write_text(json.dumps(values))
        command = [sys.executable, "-m", "deploy", RELEASE, "--namespace", self.namespace, "--values", str(file)]
        command += ["--timeout", str(timeout), *flags]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=3 * timeout + 300)
        print(done.stderr)
        return done

    def pods(self, part: str) -> list[dict[str, Any]]:
        """Those that are not being deleted, oldest first."""
        selector = f"app=isvc.{RELEASE}-{part}"
        found = kube.kubectl(
            "get", "pod", "-n", self.namespace, "-l", selector, "--sort-by=.metadata.creationTimestamp", "-o", "json"
        )
        return [pod for pod in json.loads(found)["items"] if "deletionTimestamp" not in pod["metadata"]]

    def names(self, part: str) -> list[str]:
        return [pod["metadata"]["name"] for pod in self.pods(part)]

    def read_logs(self, part: str) -> list[dict[str, Any]]:
        """Every line that the part's pods logged, each of which must be JSON, but for the one that says it is ready."""
        selector = f"app=isvc.{RELEASE}-{part}"
        lines = kube.kubectl("logs", "-n", self.namespace, "-l", selector, "--tail=2000").splitlines()
        return [json.loads(line) for line in lines if not line.startswith("ready ")]

    def show_failures(self) -> None:
        """Print what the pods that are there say of requests that failed, with the stages where their time went."""
        for part in ("transformer", "predictor"):
            with contextlib.suppress(DeployFailed, ValueError):  # no log yet, or one that a crash has cut
                for entry in self.read_logs(part):
                    if entry.get("code", 200) not in (200, "OK"):
                        print(part, json.dumps(entry))

    def door(self) -> Door:
        return Door(kube.find_ingress(), kube.find_host(self.namespace, RELEASE))
