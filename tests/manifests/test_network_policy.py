"""Who may talk to whom, decided from the rendered policies as Kubernetes documents it."""

import ipaddress
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.manifests.rendering import Object, chart

VALUES = (
    "networkPolicy.enabled=true,networkPolicy.artefactStore={10.8.0.0/24},networkPolicy.artefactPorts={443,5000},"
    "transformer.downloads.allowNetworks={10.9.0.0/16}"
)


@dataclass(frozen=True)
class Pod:
    """One end of a connection: labels in a namespace, or only an address outside."""

    labels: dict[str, str] = field(default_factory=dict)
    namespace: str = "doggos"
    address: str = "10.244.0.9"


PREDICTOR, TRANSFORMER = Pod({"app": "isvc.doggos-predictor"}), Pod({"app": "isvc.doggos-transformer"})
OTHER_PREDICTOR = Pod({"app": "isvc.other-predictor"})
TEST = Pod({"app.kubernetes.io/instance": "doggos", "app.kubernetes.io/component": "test"})
GATEWAY, PROMETHEUS = Pod({"app": "envoy"}, "envoy-gateway-system"), Pod({"app": "prometheus"}, "monitoring")
DNS, NEIGHBOUR = Pod({"k8s-app": "kube-dns"}, "kube-system"), Pod({"app": "other"}, "default")
STORE, PUBLIC = Pod(address="10.8.0.7", namespace=""), Pod(address="93.184.216.34", namespace="")
PICTURES, PRIVATE = Pod(address="10.9.1.1", namespace=""), Pod(address="10.1.2.3", namespace="")
METADATA, PUBLIC_V6 = Pod(address="169.254.169.254", namespace=""), Pod(address="2606:2800::1", namespace="")
PRIVATE_V6 = Pod(address="fd00::1", namespace="")

FLOWS = [
    (GATEWAY, TRANSFORMER, 8080, True),
    (GATEWAY, TRANSFORMER, 8081, True),
    (GATEWAY, TRANSFORMER, 8082, False),
    (GATEWAY, PREDICTOR, 8080, False),
    (GATEWAY, PREDICTOR, 8081, False),
    (TRANSFORMER, PREDICTOR, 8080, True),
    (TRANSFORMER, PREDICTOR, 8081, True),
    (TRANSFORMER, OTHER_PREDICTOR, 8080, False),
    (TRANSFORMER, OTHER_PREDICTOR, 8081, False),
    (PREDICTOR, TRANSFORMER, 8080, False),
    (TEST, TRANSFORMER, 8080, True),
    (TEST, TRANSFORMER, 8081, True),
    (TEST, PREDICTOR, 8080, False),
    (TEST, PREDICTOR, 8081, False),
    (PROMETHEUS, TRANSFORMER, 8082, True),
    (PROMETHEUS, PREDICTOR, 8082, True),
    (PROMETHEUS, PREDICTOR, 8081, False),
    (NEIGHBOUR, TRANSFORMER, 8080, False),
    (NEIGHBOUR, PREDICTOR, 8080, False),
    (NEIGHBOUR, PREDICTOR, 8081, False),
    (TRANSFORMER, DNS, 53, True),
    (PREDICTOR, DNS, 53, True),
    (TRANSFORMER, STORE, 443, True),
    (PREDICTOR, STORE, 443, True),
    (PREDICTOR, STORE, 5000, True),
    (PREDICTOR, STORE, 22, False),
    (TRANSFORMER, PUBLIC, 443, True),
    (TRANSFORMER, PUBLIC, 80, True),
    (TRANSFORMER, PUBLIC, 22, False),
    (TRANSFORMER, PUBLIC_V6, 443, True),
    (TRANSFORMER, PRIVATE_V6, 443, False),
    (TRANSFORMER, PICTURES, 443, True),
    (TRANSFORMER, PRIVATE, 443, False),
    (TRANSFORMER, METADATA, 80, False),
    (PREDICTOR, PUBLIC, 443, False),
]


@pytest.mark.parametrize(("source", "target", "port", "allowed"), FLOWS)
def test_a_flow(source: Pod, target: Pod, port: int, allowed: bool) -> None:
    policies = [o for o in chart(VALUES) if o["kind"] == "NetworkPolicy"]
    leaves = permits(policies, "Egress", source, target, port)
    enters = permits(policies, "Ingress", target, source, port)
    assert (leaves and enters) is allowed


def permits(policies: list[Object], direction: str, pod: Pod, peer: Pod, port: int) -> bool:
    """Whether the policies that select `pod` let a connection with `peer` pass; without one everything passes."""
    selecting = [
        policy["spec"]
        for policy in policies
        if direction in policy["spec"]["policyTypes"]
        and pod.namespace == "doggos"
        and selects(policy["spec"]["podSelector"], pod.labels)
    ]
    peers = "from" if direction == "Ingress" else "to"
    rules = [rule for spec in selecting for rule in spec[direction.lower()]]
    return not selecting or any(
        port in [allowed["port"] for allowed in rule["ports"]] and any(is_peer(entry, peer) for entry in rule[peers])
        for rule in rules
    )


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    return selector["matchLabels"].items() <= labels.items()


def is_peer(entry: dict[str, Any], pod: Pod) -> bool:
    if "ipBlock" in entry:
        address = ipaddress.ip_address(pod.address)
        inside = address in ipaddress.ip_network(entry["ipBlock"]["cidr"])
        return inside and not any(address in ipaddress.ip_network(n) for n in entry["ipBlock"].get("except", []))
    if not pod.namespace:
        return False
    if "namespaceSelector" in entry:
        if not selects(entry["namespaceSelector"], {"kubernetes.io/metadata.name": pod.namespace}):
            return False
    elif pod.namespace != "doggos":
        return False
    return "podSelector" not in entry or selects(entry["podSelector"], pod.labels)
