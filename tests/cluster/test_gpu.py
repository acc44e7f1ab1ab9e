"""Predictors that each take a whole GPU: an upgrade where the node has no second one, and where every pod has a peer.

The GPU is a number that the scheduler counts; nothing computes on it.
"""

import json
from collections.abc import Iterator

import pytest

from tests.callers import wait_until
from tests.cluster import kube
from tests.cluster.load import Load
from tests.cluster.release import Release

GPU = "tests.example.com/gpu"
# As predictor.gpu.resource has it, but for the image.
ON_GPU = {"predictor": {"resources": {"limits": {GPU: "1"}}, "rollout": "replace"}}
LONGEST = 60.0  # seconds without a predictor


def nodes() -> list[str]:
    return kube.kubectl("get", "node", "--output", "name").split()


def set_gpus(node: str, count: int) -> None:
    """What the node's status says that it has; 0 takes the resource away."""
    change: dict[str, str] = {"op": "add", "value": str(count)} if count else {"op": "remove"}
    change["path"] = f"/status/capacity/{GPU.replace('/', '~1')}"
    kube.kubectl("patch", node, "--subresource=status", "--type=json", f"--patch={json.dumps([change])}")
    wait_until(lambda: gpus(node) == count, f"{count} GPUs", timeout=60)


def gpus(node: str) -> int:
    status = json.loads(kube.kubectl("get", node, "--output", "json"))["status"]
    return int(status["allocatable"].get(GPU, 0))


@pytest.fixture(scope="module")
def node(controller: None) -> Iterator[str]:
    """A node with one GPU; what it had is put back."""
    name = nodes()[0]
    set_gpus(name, 1)
    try:
        yield name
    finally:
        set_gpus(name, 0)


@pytest.fixture(scope="module")
def release(node: str, namespace: str, tmp_path_factory: pytest.TempPathFactory) -> Release:
    release = Release(namespace, tmp_path_factory.mktemp("release"))
    release.deploy(ON_GPU)
    return release


def upgrade(release: Release, image: str) -> Load:
    """Under load; how its callers did."""
    door = release.door()
    with Load(door, door.ask(), rate=10) as load:
        load.wait_for(20)
        release.deploy({"predictor": {"image": {"name": image}}})
        load.settle()
    assert all(f"/{image}:" in pod["spec"]["containers"][0]["image"] for pod in release.pods("predictor"))
    return load


def test_one_gpu_is_handed_from_the_old_pod_to_the_new_one(release: Release) -> None:
    """Callers get 503 meanwhile, and nothing else."""
    load = upgrade(release, "doggos-predictor-cpu-next")
    lost = [reply for reply in load.replies if reply.error]
    without = max((reply.begin + reply.seconds for reply in lost), default=0.0) - min(
        (reply.begin for reply in lost), default=0.0
    )
    print(f"{len(lost)} of {len(load.replies)} requests refused within {without:.1f} s: {dict(load.failed)}")
    assert all("503" in reply.error or reply.error.startswith("UNAVAILABLE") for reply in lost)
    assert without < LONGEST


def test_with_two_gpus_and_two_pods_nobody_notices(release: Release, node: str) -> None:
    set_gpus(node, 2)
    release.deploy({"scaling": {"predictor": {"minReplicas": 2}}})
    load = upgrade(release, "doggos-predictor-cpu")
    print(f"{len(load.replies)} requests, slowest {load.slowest:.2f} s")
    assert not load.failed
