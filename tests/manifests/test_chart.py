"""What the chart renders is what the programs, KServe and a strict cluster take."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from docs.make_manifests import CHART
from predictor.settings import PREFIX as PREDICTOR
from predictor.settings import PredictorSettings
from serving.kserve_flags import kserve_flags
from serving.metrics import Metrics, PredictorMetrics, TransformerMetrics
from serving.settings import load_settings
from tests.manifests.rendering import (
    OVERLAYS,
    Object,
    chart,
    find_program,
    one,
    overlay,
    pod_specs,
    render_chart,
    without_namespace,
)
from transformer.settings import PREFIX as TRANSFORMER
from transformer.settings import TransformerSettings

GPU = "predictor.gpu.resource=nvidia.com/gpu"
MLFLOW = f"{GPU},artefacts.mlflow.uri=http://mlflow,artefacts.mlflow.run=a1b2,artefacts.mlflow.secret=mlflow"
ROUTE = "ingress.kind=route,ingress.route.hostnames={doggos.example.com}"
EVERYTHING = (
    f"{ROUTE},ingress.retries=unanswered,networkPolicy.enabled=true,monitoring.podMonitor=true,monitoring.prometheusRule=true,"
    "monitoring.dashboard=true,monitoring.labels.release=stack,"
    "artefacts.index=s3://bucket/index,artefacts.urlTemplate=https://pictures.example.com/{path},"
    "artefacts.imageRoot=s3://bucket/images,"
    "artefacts.allowUnmarked=true,artefacts.clipPath=.,artefacts.storageSecrets={s3},image.pullSecrets={registry},"
    "transformer.downloads.allowNetworks={10.1.0.0/16,10.2.0.0/16},transformer.downloads.allowHosts={*.example.com},"
    "transformer.downloads.egressProxy=http://proxy:3128,transformer.args={--log_level=debug},"
    "predictor.nodeSelector.disk=ssd,predictor.priorityClassName=high,predictor.env[0].name=A,predictor.env[0].value=b"
)
VARIANTS = [
    "",
    GPU,
    MLFLOW,
    EVERYTHING,
    "scaling.kind=keda",
    "scaling.kind=none",
    "kserve.deploymentMode=RawDeployment",
]

INJECTED = ["--http_port", "8080"]  # by KServe's controller, where the arguments do not have it


def renderings() -> list[Any]:
    """Every variant of the chart, and every overlay."""
    charts = [pytest.param(lambda v=v: chart(v), id=f"chart {v[:40] or 'as it is'}") for v in VARIANTS]
    return charts + [pytest.param(lambda o=o: overlay(o), id=f"overlay {o}") for o in OVERLAYS]


every_rendering = pytest.mark.parametrize("render", renderings())


@every_rendering
def test_every_container_has_image_probes_and_resources(render: Any) -> None:
    for name, pod in pod_specs(render()):
        for container in pod["containers"]:
            assert container["image"], name
            assert container["resources"]["requests"].keys() >= {"cpu", "memory"}, name
            assert container["resources"]["limits"].keys() >= {"cpu", "memory"}, name
            ports = {port["name"]: port["containerPort"] for port in container["ports"]}
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                assert container[probe]["httpGet"]["port"] in ports, name
            assert container["startupProbe"]["httpGet"]["path"] == "/v2/models/doggos/ready", name
            assert container["livenessProbe"]["httpGet"]["path"] == "/v2/health/live", name


@every_rendering
def test_every_pod_is_restricted(render: Any) -> None:
    for name, pod in pod_specs(render()):
        assert pod["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}, name
        assert pod["automountServiceAccountToken"] is False, name
        assert pod["enableServiceLinks"] is False, name
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "readOnlyRootFilesystem": True,
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            }, name
            assert "/tmp" in [mount["mountPath"] for mount in container["volumeMounts"]], name


@every_rendering
def test_the_programs_take_their_flags(render: Any) -> None:
    for name, pod in pod_specs(render()):
        containers = {container["name"]: container for container in pod["containers"]}
        for container in containers.values():
            of_predictor = "predictor" in container["image"]
            settings = load_settings(
                PredictorSettings if of_predictor else TransformerSettings,
                name,
                PREDICTOR if of_predictor else TRANSFORMER,
                [*container["args"], *INJECTED] if name.endswith("-transformer") else container["args"],
                {},
                kserve_flags(),
            )
            listens = {settings.http_port, settings.grpc_port, settings.metrics_port}
            assert listens == {port["containerPort"] for port in container["ports"]}, name
            shutdown = container["lifecycle"]["preStop"]["sleep"]["seconds"] + settings.drain_seconds
            # 5 s more for what a server does after its grace.
            assert shutdown + settings.grace_seconds + 5 <= pod["terminationGracePeriodSeconds"], name
            starts = container["startupProbe"]["periodSeconds"] * container["startupProbe"]["failureThreshold"]
            assert starts >= getattr(settings, "start_timeout", 0), "killed while it waits for the predictor"


@every_rendering
def test_what_kserve_appends_is_there_already(render: Any) -> None:
    """Its own --predictor_host is one address for all predictors: connections would stay with some of them."""
    for name, pod in pod_specs(render()):
        if name.endswith("-transformer"):
            flags = [argument.split("=")[0] for argument in pod["containers"][0]["args"]]
            assert {"--model_name", "--predictor_host"} <= set(flags)


@pytest.mark.parametrize("release", ["doggos", "staging"])
def test_the_transformer_calls_all_predictor_pods_by_the_headless_service(release: str) -> None:
    objects = chart(release=release)
    service = one(objects, "Service")
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"] == {"app": f"isvc.{release}-predictor"}
    transformer = dict(pod_specs(objects))[f"{release}-transformer"]
    assert f"--predictor_host={service['metadata']['name']}:8080" in transformer["containers"][0]["args"]


def test_a_release_does_not_change_what_reaches_the_pods_but_the_images(tmp_path: Path) -> None:
    copy = shutil.copytree(CHART, tmp_path / "helm")
    text = (copy / "Chart.yaml").read_text()
    (copy / "Chart.yaml").write_text(text.replace("version: 0.1.0", "version: 9.9.9").replace("appVersion: 0.1.0", ""))
    options = ("doggos", "--set", "image.tag=v1")
    helm = find_program("helm")
    assert render_chart(*options, helm=helm) == render_chart(*options, helm=helm, chart=copy)


def test_an_image_by_digest() -> None:
    digest = "sha256:" + "0123456789abcdef" * 4
    objects = chart(f"transformer.image.digest={digest},predictor.image.digest={digest},image.registry=r.example.com/a")
    pods = dict(pod_specs(objects))
    assert pods["doggos-predictor"]["containers"][0]["image"] == f"r.example.com/a/doggos-predictor-cpu@{digest}"
    assert pods["doggos-transformer"]["containers"][0]["image"] == f"r.example.com/a/doggos-transformer@{digest}"


def test_a_gpu_goes_to_the_predictor_only() -> None:
    pods = dict(pod_specs(chart(f"{GPU},predictor.gpu.runtimeClassName=nvidia")))
    (predictor,) = pods["doggos-predictor"]["containers"]
    assert predictor["image"].split(":")[0].endswith("/doggos-predictor")
    assert predictor["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert "--device=cuda" in predictor["args"]
    assert pods["doggos-predictor"]["runtimeClassName"] == "nvidia"
    assert "nvidia.com/gpu" not in str(pods["doggos-transformer"])


@pytest.mark.parametrize(
    ("values", "surge", "unavailable"),
    [("", 1, 0), (GPU, 0, 1), (f"{GPU},predictor.rollout=surge", 1, 0), ("predictor.rollout=replace", 0, 1)],
)
def test_a_rollout_needs_a_second_gpu_only_when_asked_to(values: str, surge: int, unavailable: int) -> None:
    strategy = dict(pod_specs(chart(values)))["doggos-predictor"]["deploymentStrategy"]
    assert strategy == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable},
    }


def test_a_head_from_mlflow_is_pinned_and_its_credentials_come_from_a_secret() -> None:
    (predictor,) = dict(pod_specs(chart(MLFLOW)))["doggos-predictor"]["containers"]
    assert {"--mlflow_uri=http://mlflow", "--mlflow_run=a1b2"} < set(predictor["args"])
    assert predictor["envFrom"] == [{"secretRef": {"name": "mlflow"}}]


def test_an_index_on_a_claim_is_mounted_from_its_folder() -> None:
    transformer = dict(pod_specs(chart("artefacts.index=pvc://claim/some/index/")))["doggos-transformer"]
    mount = transformer["containers"][0]["volumeMounts"][1]
    assert mount == {"name": "index", "mountPath": "/mnt/index", "subPath": "some/index", "readOnly": True}
    assert transformer["volumes"][1]["persistentVolumeClaim"] == {"claimName": "claim", "readOnly": True}


def test_an_index_from_a_store_is_loaded_by_kserve() -> None:
    objects = chart("artefacts.index=s3://bucket/index,artefacts.storageSecrets={s3}")
    transformer = dict(pod_specs(objects))["doggos-transformer"]
    assert transformer["storageUris"] == [{"uri": "s3://bucket/index", "mountPath": "/mnt/index"}]
    assert [volume["name"] for volume in transformer["volumes"]] == ["tmp"]
    assert one(objects, "ServiceAccount", transformer["serviceAccountName"])["secrets"] == [{"name": "s3"}]


def measured(metrics: Metrics) -> set[str]:
    return {sample.name for family in metrics.registry.collect() for sample in family.samples}


@pytest.mark.parametrize(
    ("part", "metrics"), [("predictor", PredictorMetrics()), ("transformer", TransformerMetrics())]
)
def test_scaling_asks_for_what_the_part_measures(part: str, metrics: Metrics) -> None:
    pod = dict(pod_specs(chart("scaling.kind=keda")))[f"doggos-{part}"]
    queries = [metric["external"]["metric"]["query"] for metric in pod["autoScaling"]["metrics"]]
    asked = {
        word for query in queries for word in query.replace("(", " ").replace("{", " ").split() if "doggos_" in word
    }
    assert {name for name in asked if name.startswith("doggos_")} <= measured(metrics)
    assert all(f'pod=~"doggos-{part}-.+"' in query and 'namespace="doggos"' in query for query in queries)


def test_disruption_budgets_select_the_parts_and_never_block_a_drain() -> None:
    budgets = [o for o in chart() if o["kind"] == "PodDisruptionBudget"]
    assert [b["spec"]["selector"]["matchLabels"]["app"] for b in budgets] == [
        "isvc.doggos-predictor",
        "isvc.doggos-transformer",
    ]
    assert all(b["spec"]["maxUnavailable"] == 1 for b in budgets)
    assert all(b["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow" for b in budgets)


def test_the_page_comes_through_the_same_host_unless_it_is_switched_off() -> None:
    def published(values: str) -> set[str]:
        rules = one(chart(f"{ROUTE},{values}"), "HTTPRoute")["spec"]["rules"]
        return {match["path"]["value"] for rule in rules for match in rule["matches"]}

    with_pictures = published("artefacts.imageRoot=s3://bucket/images")
    assert {"/", "/page", "/images"} <= with_pictures
    assert with_pictures - published("transformer.page=true") == {"/images"}
    off = "transformer.page=false"
    assert not {"/", "/page", "/images"} & published(off)
    (container,) = dict(pod_specs(chart(off)))["doggos-transformer"]["containers"]
    assert "--page=off" in container["args"]


def test_our_route_replaces_kserves_and_shares_with_a_canary() -> None:
    objects = chart(f"{ROUTE},ingress.route.canary.release=new,ingress.route.canary.percent=20")
    service = one(objects, "InferenceService")
    assert service["metadata"]["labels"]["networking.kserve.io/visibility"] == "cluster-local"
    *shared, page = one(objects, "HTTPRoute")["spec"]["rules"]
    assert [backend["name"] for backend in page["backendRefs"]] == ["doggos-transformer"]
    for rule, port in zip(shared, (80, 8081), strict=True):
        shares = [(b["name"], b["port"], b["weight"]) for b in rule["backendRefs"]]
        assert shares == [("doggos-transformer", port, 80), ("new-transformer", port, 20)]
        assert rule["timeouts"]["request"] == "15s"


def test_a_canary_without_a_share_may_be_uninstalled() -> None:
    """A route with a backend that is not there is not healthy, whatever its weight."""
    objects = chart(f"{ROUTE},ingress.route.canary.release=gone,ingress.route.canary.percent=0")
    backends = [backend for rule in one(objects, "HTTPRoute")["spec"]["rules"] for backend in rule["backendRefs"]]
    assert {(backend["name"], backend["weight"]) for backend in backends} == {("doggos-transformer", 100)}


@pytest.mark.parametrize(
    ("name", "values"),
    [("cpu", ""), ("gpu", GPU), ("keda", "scaling.kind=keda")],
)
def test_an_overlay_and_the_chart_give_the_same_objects(name: str, values: str) -> None:
    assert without_namespace(overlay(name)) == without_namespace(chart(values))


def test_the_canary_overlay_is_the_chart_twice() -> None:
    stable = chart(f"{ROUTE},ingress.route.canary.release=doggos-canary,ingress.route.canary.percent=20")
    assert without_namespace(overlay("canary")) == without_namespace(
        [*stable, *chart("ingress.kind=none", release="doggos-canary")]
    )


def test_collocated_is_one_pod_that_names_its_claim_once() -> None:
    objects = overlay("collocated")
    ((_, pod),) = pod_specs(objects)
    assert [container["name"] for container in pod["containers"]] == ["kserve-container", "transformer-container"]
    ports = [port["containerPort"] for container in pod["containers"] for port in container["ports"]]
    assert len(ports) == len(set(ports))
    assert not [volume for volume in pod["volumes"] if "persistentVolumeClaim" in volume]
    assert "--predictor_host=127.0.0.1:9080" in pod["containers"][1]["args"]


def test_the_keda_overlay_asks_about_its_own_namespace() -> None:
    service: Object = one(overlay("keda"), "InferenceService")
    assert str(service["spec"]).count('namespace="doggos"') == 4
    assert service["metadata"]["namespace"] == "doggos"
