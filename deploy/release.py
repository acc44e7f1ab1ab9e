"""A release of the chart: upgrade, test, take back."""

import json
import time
from collections.abc import Sequence

from deploy.artefacts import find_changed
from deploy.pods import find_last_words
from deploy.rollout import wait_for_rollout
from deploy.settings import DeploySettings
from deploy.tools import DeployFailed, call, say

REHEARSAL = "-rehearsal"
ASKING = "-test-answer"  # the pod of `helm test`
# Beside the release: one pod of each part, no route to it, and no GPU, since the release may have the only one.
REHEARSED = (
    "ingress.kind=none,scaling.kind=none,scaling.predictor.minReplicas=1,scaling.transformer.minReplicas=1,"
    "predictor.gpu.count=0"
)


def deploy(settings: DeploySettings, pins: Sequence[str]) -> None:
    """Bring the release to what the settings and the files of `pins` say; raises DeployFailed when it serves the old.

    A first installation that fails is left as it is, for somebody to look at.
    """
    before = find_revision(settings.namespace, settings.release)
    if reason := why_rehearse(settings, pins, before):
        say(f"rehearsing: {reason}")
        rehearse(settings, pins)
    begin = time.monotonic()
    try:
        _bring(settings, settings.release, pins, settings.set)
    except DeployFailed as error:
        if not before:
            raise DeployFailed(f"{error}; it is a first installation, so there is nothing to roll back to") from None
        say(f"failed: {error}")
        roll_back(settings, before)
        raise DeployFailed(f"rolled back to revision {before}: {error}") from None
    say(f"{settings.release} serves, {time.monotonic() - begin:.0f} s")


def why_rehearse(settings: DeploySettings, pins: Sequence[str], before: int) -> str:
    """Why everything is to be tried beside the release first; empty when it is not.

    A new image shows by itself whether it serves, while the old pods still do. A model does not: its predictor starts,
    takes the old one's place, and only then is the transformers' index found to be of another CLIP.
    """
    if settings.rehearse != "auto" or not before:
        return "asked for" if settings.rehearse == "on" else ""
    place = ("--namespace", settings.namespace)
    installed = call("helm", "get", "manifest", settings.release, *place, "--revision", str(before))
    wanted = call("helm", "template", settings.release, settings.chart, *place, *_values(settings, pins, settings.set))
    changed = find_changed(installed, wanted)
    return f"another {' and '.join(changed)} than revision {before} has" if changed else ""


def rehearse(settings: DeploySettings, pins: Sequence[str]) -> None:
    """The same under another name, tested and taken away; the release is not touched."""
    name = settings.release + REHEARSAL
    try:
        _bring(settings, name, pins, ",".join(filter(None, (settings.set, REHEARSED))))
    except DeployFailed as error:
        raise DeployFailed(f"the rehearsal failed, and {settings.release} was not touched: {error}") from None
    finally:
        place = ("--namespace", settings.namespace)
        call("helm", "uninstall", name, *place, "--ignore-not-found", "--wait")
        call("kubectl", "delete", "pod", name + ASKING, *place, "--ignore-not-found")  # no release has it, says helm


def _bring(settings: DeploySettings, release: str, pins: Sequence[str], single: str) -> None:
    values = _values(settings, pins, single)
    call("helm", "upgrade", "--install", release, settings.chart, "--namespace", settings.namespace, *values)
    wait_for_rollout(settings.namespace, release, settings.timeout)
    _test(settings.namespace, release)


def _test(namespace: str, release: str) -> None:
    try:
        said = call("helm", "test", release, "--namespace", namespace, "--logs", "--timeout", "3m")
    except DeployFailed as error:
        raise DeployFailed(f"{error}{find_last_words(namespace, release + ASKING)}") from None
    say(said[said.find("POD LOGS") :].strip())


def _values(settings: DeploySettings, pins: Sequence[str], single: str) -> list[str]:
    """Helm's flags for them."""
    files = [*filter(None, settings.values.split(",")), *pins]
    return [part for file in files for part in ("--values", file)] + (["--set", single] if single else [])


def roll_back(settings: DeploySettings, revision: int) -> None:
    """Back to a revision, until it has rolled out."""
    call("helm", "rollback", settings.release, str(revision), "--namespace", settings.namespace)
    wait_for_rollout(settings.namespace, settings.release, settings.timeout)


def find_revision(namespace: str, release: str) -> int:
    """The release's revision that was deployed last; 0 when there is none."""
    exact = f"^{release}$"
    if not json.loads(call("helm", "list", "--namespace", namespace, "--filter", exact, "--all", "--output", "json")):
        return 0
    history = json.loads(call("helm", "history", release, "--namespace", namespace, "--output", "json"))
    return max((int(entry["revision"]) for entry in history if entry["status"] == "deployed"), default=0)
