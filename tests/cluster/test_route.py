"""Our own route: what it publishes, its policies, and a canary as two whole services behind it, by weight."""

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from docs.make_manifests import CHART, MANIFESTS
from tests.callers import wait_until
from tests.cluster import kube
from tests.cluster.load import Door, Load
from tests.cluster.release import RELEASE, Release, base_values, merge

HOST, CANARY = "canary.example.com", "doggos-canary"
SHARE = 20  # percent
LIMIT = 100  # requests/s in the example of policies
ASKED = 800  # the standard deviation of the share is then 1.4 points
NEW = {"artefacts": {"urlTemplate": "https://new.example.com/{path}"}}  # an answer tells which version gave it


def shares(percent: int) -> dict[str, object]:
    canary = {"release": CANARY if percent else "", "percent": percent}
    return {"ingress": {"kind": "route", "route": {"hostnames": [HOST], "canary": canary}}}


@pytest.fixture(scope="module")
def stable(namespace: str, tmp_path_factory: pytest.TempPathFactory) -> Release:
    release = Release(namespace, tmp_path_factory.mktemp("release"))
    release.deploy(shares(0))
    return release


@contextmanager
def canary(stable: Release, folder: Path) -> Iterator[None]:
    """The new version beside the stable one, without a route of its own."""
    file = folder / "canary.yaml"
    file.write_text(json.dumps(merge(merge(base_values(), NEW), {"ingress": {"kind": "none"}})))
    space = ("--namespace", stable.namespace)
    kube.call("helm", "upgrade", "--install", CANARY, str(CHART), *space, "--values", str(file))
    for condition in ("Ready", "TransformerReady"):  # without a route of KServe's, the first does not count the second
        kube.kubectl("wait", f"--for=condition={condition}", "--timeout=180s", f"inferenceservice/{CANARY}", *space)
    yield
    kube.call("helm", "uninstall", CANARY, *space)


@pytest.fixture
def caller(stable: Release) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"http://{kube.find_ingress()}", headers={"host": HOST}, timeout=30) as client:
        wait_until(lambda: client.get("/v2").status_code == 200, "the route", timeout=60)
        yield client


def test_what_is_listed_is_published_and_nothing_else(caller: httpx.Client, stable: Release) -> None:
    assert caller.get("/v2/models/doggos").json()["name"] == "doggos"
    picture = Door("", "").picture
    assert caller.post("/predict/", content=picture, headers={"content-type": "image/jpeg"}).status_code == 200
    for path in ("/docs", "/openapi.json", "/"):
        assert caller.get(path).status_code == 200, path
    for path in ("/metrics", "/v2/health/live", "/v2/repository/index", "/images/x"):
        assert caller.get(path).status_code == 404, path
    routes = kube.kubectl("get", "httproute", "--namespace", stable.namespace, "--output", "name").split()
    assert routes == [f"httproute.gateway.networking.k8s.io/{RELEASE}-public"]


def test_grpc_inference_health_and_reflection_are_published(caller: httpx.Client) -> None:
    door = Door(kube.find_ingress(), HOST)
    with door.grpc() as ask:
        assert len(ask()) == 3
    with grpc.insecure_channel(door.address, [("grpc.default_authority", HOST)]) as channel:
        health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=30)
        assert health.status == health_pb2.HealthCheckResponse.SERVING
        reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
        question = reflection_pb2.ServerReflectionRequest(list_services="")
        (answer,) = reflection.ServerReflectionInfo(iter([question]), timeout=30)
    services = [service.name for service in answer.list_services_response.service]
    assert "inference.GRPCInferenceService" in services


async def ask_at_once(url: str, headers: dict[str, str]) -> Counter[int]:
    """How many of six times the limit get which code."""
    async with aiohttp.ClientSession(headers=headers) as session:

        async def ask(_: int) -> int:
            async with session.get(url) as answer:
                return answer.status

        return Counter(await asyncio.gather(*map(ask, range(6 * LIMIT))))


def test_the_example_policies_ask_for_a_key_and_limit_the_rate(caller: httpx.Client, stable: Release) -> None:
    space, policies = ("--namespace", stable.namespace), MANIFESTS / "components/gateway-policies/policies.yaml"
    kube.kubectl("create", "secret", "generic", "doggos-api-keys", "--from-literal=alice=a-long-secret", *space)
    kube.kubectl("apply", "--filename", str(policies), *space)
    wait_until(lambda: caller.get("/v2").status_code == 401, "the policy", timeout=60)
    key = {"x-api-key": "a-long-secret"}
    assert caller.get("/v2", headers=key).status_code == 200
    codes = asyncio.run(ask_at_once(f"http://{kube.find_ingress()}/v2", {"host": HOST, **key}))
    print(f"{dict(codes)} with a limit of {LIMIT}/s")
    assert set(codes) == {200, 429} and codes[200] >= LIMIT
    kube.kubectl("delete", "--filename", str(policies), *space)
    wait_until(lambda: caller.get("/v2").status_code == 200, "the end of the policy", timeout=60)


def percent_of_new(count: int) -> float:
    door = Door(kube.find_ingress(), HOST)
    with httpx.Client(base_url=f"http://{door.address}", headers={"host": HOST}, timeout=30) as client:
        kind = {"content-type": "image/jpeg"}
        answers = [client.post("/predict/?k=1&n=1", content=door.picture, headers=kind) for _ in range(count)]
    assert {answer.status_code for answer in answers} == {200}
    return 100 * sum("url" in answer.json()["top_matches"][0] for answer in answers) / count


def test_a_canary_gets_its_share_and_is_aborted_or_promoted_unnoticed(
    caller: httpx.Client, stable: Release, tmp_path: Path
) -> None:
    door = Door(kube.find_ingress(), HOST)
    with Load(door, door.ask(), rate=20) as load:
        with canary(stable, tmp_path):
            assert percent_of_new(100) == 0
            stable.deploy(shares(SHARE))
            wait_until(lambda: percent_of_new(20) > 0, "the weights", timeout=60)
            measured = percent_of_new(ASKED)
            print(f"{measured} of 100 requests went to the canary, {SHARE} were meant to")
            assert abs(measured - SHARE) < 6

            stable.deploy(shares(0))  # abort
            wait_until(lambda: percent_of_new(20) == 0, "the weights", timeout=60)

            stable.deploy(shares(100))  # again, all of it, and then the stable release becomes the new version
            wait_until(lambda: percent_of_new(20) == 100, "the weights", timeout=60)
            stable.deploy(NEW)
            stable.deploy(shares(0))
            load.settle()
        load.settle()
    assert not load.failed
    assert percent_of_new(100) == 100
