"""What cluster tests start from. `make test` leaves them out; `make test-cluster` needs KUBECONFIG, kubectl and helm.

IMAGE_REGISTRY and IMAGE_TAG name the images (see .ci/cluster); INGRESS and ARTEFACTS help where the cluster
runs elsewhere. With REQUIRE_CONTROLLER=1 a test that cannot run fails.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import kube
from tests.cluster.artefacts import make_artefacts

HERE = Path(__file__).parent
TALLY = pytest.StashKey[dict[str, int]]()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here needs a cluster."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.cluster)


@pytest.fixture(scope="session")
def cluster() -> None:
    """A cluster with KServe's resource definitions."""
    skip_if(kube.find_obstacle())


@pytest.fixture(scope="session")
def controller(cluster: None) -> None:
    """A cluster whose InferenceServices get pods."""
    skip_if(kube.find_controller_obstacle())


def skip_if(obstacle: str) -> None:
    if obstacle:
        pytest.skip(obstacle)


@pytest.fixture(scope="session")
def artefacts(controller: None) -> Path:
    """model/{v1,v2,broken,other-clip} and index/v1."""
    return make_artefacts()


@pytest.fixture(scope="module")
def namespace(artefacts: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """A restricted namespace of this module's own, with the artefacts in the claim `doggos-artefacts`."""
    prefix = request.module.__name__.rpartition("test_")[2].replace("_", "-")
    with kube.namespace(f"doggos-test-{prefix}", artefacts) as name:
        yield name


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Count the tests that need the controller, and let none of them be skipped where it is required."""
    report: pytest.TestReport = yield  # type: ignore[misc]
    tally = item.config.stash.setdefault(TALLY, {"run": 0, "skipped": 0})
    if "controller" in getattr(item, "fixturenames", ()):
        tally["skipped"] += report.skipped
        tally["run"] += report.when == "call" and not report.skipped
        if report.skipped and os.environ.get("REQUIRE_CONTROLLER") == "1":
            report.outcome, report.longrepr = "failed", f"REQUIRE_CONTROLLER=1, but it was skipped: {report.longrepr}"
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    tally = config.stash.get(TALLY, {})
    if tally:
        terminalreporter.write_line(f"controller tests: {tally['run']} run, {tally['skipped']} skipped")
