"""What a release goes through while callers at the front door ask it without a pause: none of them may notice."""

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from deploy.rollout import wait_for_rollout
from deploy.tools import DeployFailed, call
from tests.callers import wait_until
from tests.cluster import kube
from tests.cluster.load import Door, Load
from tests.cluster.release import KNOWN_SECONDS, RELEASE, Release, base_values

SLOWEST = 5.0  # seconds
EACH = int(os.environ.get("REQUESTS_EACH", "500"))  # requests at least while one thing happens
ALL = 10_000  # while all of it happens
PARTS = ("transformer", "predictor")


@dataclass
class Stage:
    """The release, and how its callers did so far."""

    release: Release
    door: Door
    expected: tuple[str, ...]
    capacity: float  # requests/s that the callers get out of it when they do not wait
    done: list[Load] = field(default_factory=list)

    @contextmanager
    def unnoticed(self) -> Iterator[Load]:
        """Load of more than half the capacity while the block runs and a while longer; all of it must be answered."""
        with Load(self.door, self.expected, rate=0.6 * self.capacity) as load:
            load.wait_for(100)
            yield load
            load.settle()
            load.wait_for(EACH, timeout=300 + EACH / 10)
        self.done.append(load)
        print(
            f"{len(load.replies)} requests in {load.seconds:.0f} s, slowest {load.slowest:.2f} s, {self.capacity=:.0f}"
        )
        if load.failed:
            self.release.show_failures()
        assert not load.failed
        assert load.slowest < SLOWEST


@pytest.fixture(scope="module")
def stage(namespace: str, tmp_path_factory: pytest.TempPathFactory) -> Stage:
    """One pod of each part, and what it can do."""
    release = Release(namespace, tmp_path_factory.mktemp("release"))
    release.deploy({})
    door = release.door()
    expected = door.ask()
    with Load(door, expected) as load:
        load.wait_for(500)
    assert not load.failed
    return Stage(release, door, expected, len(load.replies) / load.seconds)


def image_of(release: Release, part: str) -> str:
    (pod,) = release.pods(part)
    image: str = pod["spec"]["containers"][0]["image"]
    return image


@pytest.mark.parametrize("part", PARTS)
def test_upgrade_of_an_image(stage: Stage, part: str) -> None:
    name = image_of(stage.release, part).rpartition("/")[2].partition(":")[0]
    with stage.unnoticed():
        stage.release.deploy({part: {"image": {"name": f"{name}-next"}}})
        assert f"/{name}-next:" in image_of(stage.release, part)


def test_change_of_the_model_and_images_by_digest(stage: Stage) -> None:
    digests = {part: digest_of(stage.release, part) for part in PARTS}
    changes = {part: {"image": {"digest": digest}} for part, digest in digests.items()}
    with stage.unnoticed():
        stage.release.deploy({**changes, "artefacts": {"model": f"pvc://{kube.CLAIM}/model/v2"}})
    (pod,) = stage.release.pods("predictor")
    mounts = [mount.get("subPath") for mount in pod["spec"]["containers"][0]["volumeMounts"]]
    assert "model/v2" in mounts
    assert all(image_of(stage.release, part).endswith(f"-next@{digests[part]}") for part in PARTS)


def digest_of(release: Release, part: str) -> str:
    """Of the image that runs."""
    (pod,) = release.pods(part)
    return str(pod["status"]["containerStatuses"][0]["imageID"]).partition("@")[2]


def test_helm_rollback(stage: Stage) -> None:
    """Three revisions back: to both images and the model of the first."""
    with stage.unnoticed():
        call("helm", "rollback", RELEASE, "1", "--namespace", stage.release.namespace)
        wait_for_rollout(stage.release.namespace, RELEASE, 180)
    stage.release.values = base_values()
    assert not any("-next" in image_of(stage.release, part) for part in PARTS)


@pytest.mark.parametrize("part", PARTS)
def test_scaling_to_three_and_back(stage: Stage, part: str) -> None:
    with stage.unnoticed() as load:
        stage.release.deploy({"scaling": {part: {"minReplicas": 3}}})
        assert len(stage.release.names(part)) == 3
        load.settle()
        stage.release.deploy({"scaling": {part: {"minReplicas": 1}}})
        assert len(stage.release.names(part)) == 1


@pytest.fixture(scope="module")
def pairs(stage: Stage) -> Stage:
    """Two pods of each part: one that can be lost, and one that cannot."""
    stage.release.deploy({"scaling": {part: {"minReplicas": 2} for part in PARTS}})
    return stage


def wait_for_pair(release: Release, part: str, lost: str) -> None:
    """Wait until there are two pods again that serve, and `lost` is not one of them."""

    def whole() -> bool:
        ready = [pod for pod in release.pods(part) if is_ready(pod)]
        return len(ready) == 2 and lost not in [pod["metadata"]["name"] for pod in ready]

    wait_until(whole, f"two pods of {part} in place of {lost}", 120)


def is_ready(pod: dict[str, Any]) -> bool:
    conditions = {condition["type"]: condition["status"] for condition in pod["status"].get("conditions", ())}
    return conditions.get("Ready") == "True"


@pytest.mark.parametrize("part", PARTS)
def test_deleted_pod(pairs: Stage, part: str) -> None:
    lost = pairs.release.names(part)[0]
    with pairs.unnoticed():
        kube.kubectl("delete", "pod", lost, "--namespace", pairs.release.namespace, "--wait=false")
        wait_for_pair(pairs.release, part, lost)


@pytest.mark.parametrize("part", PARTS)
def test_eviction_of_one_pod_at_a_time(pairs: Stage, part: str) -> None:
    """As `kubectl drain` does it, which asks again when the budget refuses."""
    first, second = pairs.release.names(part)
    with pairs.unnoticed():
        assert evict(pairs.release.namespace, first) == ""
        assert "disruption budget" in evict(pairs.release.namespace, second)
        wait_for_pair(pairs.release, part, first)


def evict(namespace: str, pod: str) -> str:
    """Ask for it to go; why it does not."""
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": namespace}}
    path = f"/api/v1/namespaces/{namespace}/pods/{pod}/eviction"
    try:
        kube.kubectl("create", "--raw", path, "--filename", "-", stdin=json.dumps(eviction))
    except DeployFailed as refused:
        return str(refused)
    return ""


def test_killed_predictor(pairs: Stage) -> None:
    """SIGKILL: what it was computing is asked of the other one."""
    time.sleep(KNOWN_SECONDS)  # the pod that the test before has made is the other one for somebody only then
    with pairs.unnoticed() as load:
        kill_one(pairs.release, "predictor")
        load.settle()


def test_killed_transformer(pairs: Stage) -> None:
    """SIGKILL, and nobody repeats what the pod had: lost is at most what was under way while it died."""
    with Load(pairs.door, pairs.expected, rate=0.6 * pairs.capacity) as load:
        load.wait_for(100)
        killed, gone = (moment - load.begin for moment in kill_one(pairs.release, "transformer"))
        load.settle()
        load.wait_for(EACH, timeout=300 + EACH / 10)
    pairs.done.append(load)
    under_way = [reply for reply in load.replies if reply.begin <= gone and killed <= reply.begin + reply.seconds]
    lost = [reply for reply in load.replies if reply.error]
    print(f"{len(lost)} of {len(load.replies)} lost, {len(under_way)} were under way: {dict(load.failed)}")
    print([f"{reply.begin - killed:+.3f} s" for reply in lost])
    assert len(lost) <= len(under_way)
    assert load.slowest < SLOWEST


def test_killed_transformer_behind_a_gateway_that_retries(pairs: Stage) -> None:
    pairs.release.deploy({"ingress": {"retries": "unanswered"}})
    with pairs.unnoticed() as load:
        kill_one(pairs.release, "transformer")
        load.settle()


def kill_one(release: Release, part: str) -> tuple[float, float]:
    """SIGKILL to the program of one pod, and wait until the pod serves again.

    Returns when it was killed and when it was gone: until then its kernel takes requests that nobody will answer.
    """
    pod = release.pods(part)[0]
    process = find_process(pod["metadata"]["uid"], part)
    if not process:
        pytest.skip("the node's processes cannot be seen from here")
    before = restarts(pod)
    killed = time.monotonic()
    os.kill(process, signal.SIGKILL)
    wait_until(lambda: not is_alive(process), "the end of the process", 10)
    gone = time.monotonic()

    def serves_again() -> bool:
        (now,) = [other for other in release.pods(part) if other["metadata"]["uid"] == pod["metadata"]["uid"]]
        return restarts(now) == before + 1 and is_ready(now)

    wait_until(serves_again, f"{pod['metadata']['name']} again", 90)
    return killed, gone


def is_alive(process: int) -> bool:
    """Whether it has its connections yet: a zombie has none."""
    try:
        status = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def find_process(uid: str, module: str) -> int:
    """The process of a pod's program on this machine; 0 when it is not to be seen."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            of_pod = uid in (folder / "cgroup").read_text().replace("_", "-")
            if of_pod and f"-m\0{module}\0".encode() in (folder / "cmdline").read_bytes():
                return int(folder.name)
        except OSError:
            continue  # it has ended
    return 0


def restarts(pod: dict[str, Any]) -> int:
    return int(pod["status"]["containerStatuses"][0]["restartCount"])


BAD = {
    "an image that is not there": (
        {"transformer": {"image": {"name": "doggos-missing", "digest": ""}}},
        "ImagePullBackOff",
    ),
    "an image that crashes": (
        {"predictor": {"image": {"name": "doggos-predictor-cpu-crash", "digest": ""}}},
        "crashes on purpose",
    ),
    "a damaged model": (
        {"artefacts": {"model": f"pvc://{kube.CLAIM}/model/broken"}},
        "is not the file that was exported",
    ),
}


@pytest.mark.parametrize("bad", BAD)
def test_what_cannot_serve_is_taken_back(stage: Stage, bad: str) -> None:
    changes, reason = BAD[bad]
    before = {part: stage.release.names(part) for part in PARTS}
    with stage.unnoticed():
        said = stage.release.fail(changes, "--rehearse", "off")
    assert reason in said and "rolled back to revision" in said.splitlines()[-1]
    assert {part: stage.release.names(part) for part in PARTS} == before


def test_a_model_of_another_clip_than_the_index_is_found_by_the_rehearsal(stage: Stage) -> None:
    """Its predictor starts, so that nothing but a transformer in front of it can tell."""
    before = {part: stage.release.names(part) for part in PARTS}
    changes = {"artefacts": {"model": f"pvc://{kube.CLAIM}/model/other-clip"}}
    with stage.unnoticed():
        lines = stage.release.fail(changes, timeout=75).splitlines()
    assert lines[0].startswith("rehearsing: another model than revision ")
    said = lines[-1]
    assert f"the rehearsal failed, and {RELEASE} was not touched" in said
    assert "waiting for the predictor" in said and "was made with" in said
    assert {part: stage.release.names(part) for part in PARTS} == before


def test_prometheus_scrapes_both_parts(stage: Stage) -> None:
    address = os.environ.get("PROMETHEUS", "")
    if not address:
        pytest.skip("PROMETHEUS=HOST:PORT does not say where it is")
    wanted = f'namespace="{stage.release.namespace}"'

    def components(query: str) -> set[str]:
        return {sample["metric"]["component"] for sample in kube.query_prometheus(address, query)}

    wait_until(lambda: components(f"up{{{wanted}}} == 1") == set(PARTS), "targets that are up", 30)
    assert components(f"doggos_requests_total{{{wanted}}}") == set(PARTS)


# In a pod, because some gateways give every request an id of their own.
ASK = """
import io, sys, urllib.request
from PIL import Image
file = io.BytesIO()
Image.new("RGB", (300, 200)).save(file, "JPEG")
headers = {"content-type": "image/jpeg", "x-request-id": sys.argv[1], "traceparent": sys.argv[2]}
request = urllib.request.Request("http://localhost:8080/predict/", file.getvalue(), headers)
with urllib.request.urlopen(request) as answer:
    print(answer.headers["x-request-id"])
"""


def test_logs_tell_a_request_by_its_id_in_both_parts(stage: Stage) -> None:
    request_id, trace = f"test-{time.time_ns()}", "0af7651916cd43dd8448eb211c80319c"
    pod = stage.release.names("transformer")[0]
    ask = ("exec", pod, "-n", stage.release.namespace, "--", "python", "-c", ASK, request_id)
    assert kube.kubectl(*ask, f"00-{trace}-b7ad6b7169203331-01").strip() == request_id
    for part in PARTS:
        (entry,) = [entry for entry in stage.release.read_logs(part) if entry.get("request_id") == request_id]
        assert entry["traceparent"].split("-")[1] == trace


def test_enough_was_asked(stage: Stage) -> None:
    """At the end, what all the callers of this module saw together."""
    total = sum(len(load.replies) for load in stage.done)
    seconds = sum(load.seconds for load in stage.done)
    print(f"{total} requests, {total / seconds:.0f}/s, capacity {stage.capacity:.0f}/s")
    assert total >= ALL
    assert total / seconds >= stage.capacity / 2
