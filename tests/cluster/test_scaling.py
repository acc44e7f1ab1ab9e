"""Load raises the replicas of the part that is the bottleneck, and only those; nobody's request fails."""

import asyncio
import os
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest

from tests.callers import wait_until
from tests.cluster import kube
from tests.cluster.load import Door
from tests.cluster.release import KNOWN_SECONDS, RELEASE, Release

MOST = 2  # replicas
# As KEDA's operator reaches it.
PROMETHEUS = os.environ.get("PROMETHEUS_FOR_KEDA", "http://127.0.0.1:9090")
KEDA = {
    "kind": "keda",
    "predictor": {"minReplicas": 1, "maxReplicas": MOST},
    "transformer": {"minReplicas": 1, "maxReplicas": MOST},
    # Smaller than the defaults, as the pods are. 16 callers, all at a slow predictor, cannot look like 17 elsewhere.
    "keda": {
        "prometheus": PROMETHEUS,
        "window": "15s",
        "predictorConcurrency": "4",
        "transformerConcurrency": "15",
        "scaleDownSeconds": 15,
    },
}
PARTS: dict[str, Any] = {
    "predictor": {"resources": {"requests": {"cpu": "50m"}, "limits": {"cpu": "200m"}}},
    "transformer": {
        "resources": {"requests": {"cpu": "50m"}, "limits": {"cpu": "1"}},
        "downloads": {"allowNetworks": ["10.0.0.0/8"]},  # the pods and Services of the test's cluster
    },
}

PICTURE_HOST = """
import asyncio, io
from PIL import Image

file = io.BytesIO()
Image.new("RGB", (64, 64), (180, 120, 60)).save(file, "JPEG")
HEAD = b"HTTP/1.1 200 OK\\r\\ncontent-type: image/jpeg\\r\\nconnection: close\\r\\ncontent-length: %d\\r\\n\\r\\n"

async def answer(reader, writer):
    head = await reader.readuntil(b"\\r\\n\\r\\n")
    await asyncio.sleep(float(head.split(b"/")[1].split(b".jpg")[0]))
    writer.write(HEAD % len(file.getvalue()) + file.getvalue())
    await writer.drain()
    writer.close()

async def main():
    async with await asyncio.start_server(answer, "0.0.0.0", 8000, backlog=512) as server:
        await server.serve_forever()

asyncio.run(main())
"""  # answers /<seconds>.jpg after so many seconds


def picture_host(namespace: str, image: str) -> list[dict[str, Any]]:
    labels = {"app": "pictures"}
    pod = {
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 1,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [
            {
                "name": "pictures",
                "image": image,
                "command": ["python", "-c", PICTURE_HOST],
                "readinessProbe": {"tcpSocket": {"port": 8000}, "periodSeconds": 1},
                "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
            }
        ],
    }
    meta = {"name": "pictures", "namespace": namespace, "labels": labels}
    return [
        {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": pod},
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": meta,
            "spec": {"selector": labels, "ports": [{"port": 8000}]},
        },
    ]


@dataclass
class Crowd:
    """Callers of /predict/ that each ask again as soon as they are answered."""

    release: Release
    callers: int
    url: str = ""  # of a picture; else the picture itself is sent
    pause: float = 0.0  # seconds between a caller's requests
    codes: Counter[str] = field(default_factory=Counter)

    @contextmanager
    def asking(self) -> Iterator[None]:
        self._end = threading.Event()
        thread = threading.Thread(target=lambda: asyncio.run(self._ask_all()))
        thread.start()
        try:
            yield
        finally:
            self._end.set()
            thread.join()
        print(f"{self.callers} callers: {dict(self.codes)}")
        if set(self.codes) != {"200"}:
            self.release.show_failures()
        assert set(self.codes) == {"200"}

    async def _ask_all(self) -> None:
        self._door = self.release.door()
        headers = {"host": self._door.host}
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(
            f"http://{self._door.address}", headers=headers, connector=connector
        ) as session:
            await asyncio.gather(*[self._ask(session, 3 * i / self.callers) for i in range(self.callers)])

    async def _ask(self, session: aiohttp.ClientSession, delay: float) -> None:
        await asyncio.sleep(delay)  # people do not come all at the same moment
        picture: Any = {"data": self._door.picture, "headers": {"content-type": "image/jpeg"}}
        while not self._end.is_set():
            url = f"{self.url}?{uuid.uuid4()}"  # equal ones would be fetched once for all who wait
            body = {"json": {"url": url, "k": 2, "n": 2}} if self.url else picture
            try:
                async with session.post("/predict/", **body) as response:
                    answer = await response.text()
                    self.codes["200" if response.status == 200 else f"{response.status} {answer[:200]}"] += 1
            except aiohttp.ClientError as error:
                self.codes[type(error).__name__] += 1
            await asyncio.sleep(self.pause)


@pytest.fixture(scope="module")
def release(namespace: str, tmp_path_factory: pytest.TempPathFactory) -> Release:
    release = Release(namespace, tmp_path_factory.mktemp("release"))
    release.deploy({**PARTS, "scaling": KEDA})
    (transformer,) = release.pods("transformer")
    kube.apply(*picture_host(namespace, transformer["spec"]["containers"][0]["image"]))
    kube.kubectl("wait", "--for=condition=Ready", "--timeout=60s", "pod/pictures", "--namespace", namespace)
    # The node learns a little later where the Service leads.
    wait_until(lambda: fetches(release.door(), f"http://pictures.{namespace}:8000/0.jpg"), "pictures", timeout=60)
    return release


def fetches(door: Door, url: str) -> bool:
    """Whether the service gets this picture."""
    headers = {"host": door.host}
    return httpx.post(f"http://{door.address}/predict/", json={"url": url}, headers=headers, timeout=30).is_success


@pytest.fixture(scope="module")
def keda(cluster: None) -> None:
    if "scaledobjects" not in kube.kubectl("get", "crd", "--output", "name"):
        pytest.skip("the cluster has no KEDA")


def ready(release: Release, part: str) -> int:
    path = "jsonpath={.status.readyReplicas}"
    return int(kube.kubectl("get", "deployment", f"{RELEASE}-{part}", "-n", release.namespace, "-o", path) or 0)


def wanted(release: Release, part: str) -> int:
    path = "jsonpath={.spec.replicas}"
    return int(kube.kubectl("get", "deployment", f"{RELEASE}-{part}", "-n", release.namespace, "-o", path))


def wait_for(release: Release, part: str, replicas: int, timeout: float = 180) -> float:
    """Seconds until so many are ready and no more are wanted."""
    begin = time.monotonic()

    def there() -> bool:
        time.sleep(1)
        return ready(release, part) == replicas == wanted(release, part)

    wait_until(there, f"{replicas} of the {part}", timeout)
    return time.monotonic() - begin


def scale_up_and_down(release: Release, crowd: Crowd, bottleneck: str, other: str) -> None:
    with crowd.asking():
        up = wait_for(release, bottleneck, MOST)
        assert wanted(release, other) == 1
    with Crowd(release, callers=1, pause=0.5).asking():
        down = wait_for(release, bottleneck, 1)
    print(f"{bottleneck}: 1 to {MOST} in {up:.0f} s, back in {down:.0f} s")


def test_slow_picture_hosts_scale_the_transformer_only(keda: None, release: Release) -> None:
    url = f"http://pictures.{release.namespace}:8000/2.5.jpg"
    scale_up_and_down(release, Crowd(release, callers=45, url=url), "transformer", "predictor")


def test_many_pictures_scale_the_predictor_only_and_all_its_pods_work(keda: None, release: Release) -> None:
    crowd = Crowd(release, callers=16)
    with crowd.asking():
        wait_for(release, "predictor", MOST)
        assert wanted(release, "transformer") == 1
        time.sleep(KNOWN_SECONDS)
        before = served(release)
        time.sleep(10)
        after = served(release)
    counts = [after[pod] - before.get(pod, 0) for pod in after]
    print(f"requests of the predictor's pods in 10 s: {counts}")
    assert len(counts) == MOST
    assert min(counts) > 0.5 * sum(counts) / MOST
    scale_up_and_down(release, crowd, "predictor", "transformer")


def served(release: Release) -> dict[str, float]:
    """Requests that each predictor pod has answered."""
    return {name: metric(release.namespace, name) for name in release.names("predictor")}


def metric(namespace: str, pod: str) -> float:
    path = f"/api/v1/namespaces/{namespace}/pods/{pod}:8082/proxy/metrics"
    lines = kube.kubectl("get", "--raw", path).splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("doggos_requests_total{"))


def test_without_keda_the_cpu_decides(release: Release, tmp_path: Path) -> None:
    release.deploy({"scaling": {"kind": "hpa"}})
    # KServe leaves what it made for the other kind, and two that scale one Deployment stop each other.
    kube.kubectl("delete", "scaledobject", "--all", "--ignore-not-found", "--namespace", release.namespace)
    with Crowd(release, callers=16).asking():
        wait_for(release, "predictor", MOST)
    with Crowd(release, callers=1, pause=2).asking():
        wait_for(release, "predictor", 1)
