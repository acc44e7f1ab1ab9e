"""helm and kubectl, as programs, with the KUBECONFIG of this environment."""

import json
import subprocess
import sys
from typing import Any

from serving.errors import ArtefactError, SettingError

Object = dict[str, Any]


class DeployFailed(ArtefactError):
    """The release does not serve what it should."""


def call(program: str, *arguments: str, stdin: str | None = None) -> str:
    """Its output; raises DeployFailed with its last words."""
    try:
        done = subprocess.run([program, *arguments], input=stdin, capture_output=True, text=True, check=False)  # noqa: S603
    except FileNotFoundError:
        raise SettingError(f"{program} is not on PATH; install it") from None
    if done.returncode:
        raise DeployFailed(f"{program} {arguments[0]}: {done.stderr.strip()[-1000:] or 'no word why'}")
    return done.stdout


def get_object(namespace: str, kind: str, name: str) -> Object:
    """One object, {} when it is not there."""
    found = call("kubectl", "get", kind, name, "--namespace", namespace, "--ignore-not-found", "--output", "json")
    return json.loads(found) if found else {}


def list_objects(namespace: str, kind: str, selector: str) -> list[Object]:
    """The objects with these labels."""
    found = call("kubectl", "get", kind, "--namespace", namespace, "--selector", selector, "--output", "json")
    items: list[Object] = json.loads(found)["items"]
    return items


def say(line: str) -> None:
    """Tell the person, or the log of the pipeline, what is going on."""
    print(line, file=sys.stderr, flush=True)  # noqa: T201
