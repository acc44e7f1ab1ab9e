"""The model and the index from S3, with a Secret, by KServe's storage initializer, under PodSecurity restricted."""

import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from tests.cluster import kube
from tests.cluster.release import Release

BUCKET, SECRET = "doggos", "s3-credentials"
KEYS = {"AWS_ACCESS_KEY_ID": "test-key", "AWS_SECRET_ACCESS_KEY": "test-secret"}

SAFE = {"allowPrivilegeEscalation": False, "runAsNonRoot": True, "capabilities": {"drop": ["ALL"]}}


@dataclass(frozen=True)
class Store:
    """An S3 that pods can reach."""

    address: str


@pytest.fixture(scope="module")
def store(artefacts: Path) -> Iterator[Store]:
    """The artefacts in a bucket, served by this process."""
    server = ThreadedMotoServer("0.0.0.0", port=0, verbose=False)
    server.start()
    try:
        store = Store(f"{find_own_address()}:{server.get_host_and_port()[1]}")
        upload(store, artefacts)
        yield store
    finally:
        server.stop()


def find_own_address() -> str:
    """This machine's address on the way to the front door."""
    host, _, port = kube.find_ingress().rpartition(":")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
        link.connect((host, int(port)))
        address: str = link.getsockname()[0]
        return address


def upload(store: Store, artefacts: Path) -> None:
    client = boto3.client(
        "s3",
        endpoint_url=f"http://{store.address}",
        region_name="us-east-1",
        aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
    )
    client.create_bucket(Bucket=BUCKET)
    for folder in ("model/v1", "index/v1"):
        for path in sorted((artefacts / folder).rglob("*")):
            if path.is_file():
                client.upload_file(str(path), BUCKET, path.relative_to(artefacts).as_posix())


@pytest.fixture
def safe_initializer(controller: None) -> Iterator[None]:
    """KServe's own initializer asks for too much for PodSecurity restricted, until the platform says otherwise."""

    kind = ("clusterstoragecontainer", "default")
    found = json.loads(kube.kubectl("get", *kind, "--output", "json"))["spec"]["container"].get("securityContext")

    def patch(context: object) -> None:
        change = {"op": "remove" if context is None else "add", "path": "/spec/container/securityContext"}
        change |= {} if context is None else {"value": context}
        kube.kubectl("patch", *kind, "--type", "json", "--patch", json.dumps([change]))

    patch(SAFE)
    try:
        yield
    finally:
        patch(found)


@pytest.mark.usefixtures("safe_initializer")
def test_artefacts_from_s3(namespace: str, store: Store, tmp_path: Path) -> None:
    annotations = {"s3-endpoint": store.address, "s3-usehttps": "0", "s3-region": "us-east-1"}
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": SECRET,
            "namespace": namespace,
            "annotations": {f"serving.kserve.io/{key}": value for key, value in annotations.items()},
        },
        "stringData": KEYS,
    }
    kube.apply(secret)
    release = Release(namespace, tmp_path)
    artefacts = {"model": f"s3://{BUCKET}/model/v1", "index": f"s3://{BUCKET}/index/v1", "storageSecrets": [SECRET]}
    release.deploy({"artefacts": artefacts})
    for part in ("predictor", "transformer"):
        (pod,) = release.pods(part)
        assert [container["name"] for container in pod["spec"]["initContainers"]] == ["storage-initializer"]
    assert len(release.door().ask()) == 3
