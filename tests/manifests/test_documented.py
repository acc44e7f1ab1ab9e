"""The chart has what the documentation says."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from docs.make_manifests import CHART, MANIFESTS, ROOT
from tests.manifests.rendering import find_program, run

PAGES = [ROOT / "README.md", ROOT / "docs/kubernetes.md"]
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())


def helm_commands(page: Path) -> list[list[str]]:
    """The arguments of every `helm upgrade` in a page."""
    blocks = re.findall(r"```bash\n(.*?)```", page.read_text(), re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines if line.startswith("helm upgrade")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_chart_takes_the_values_of_every_command(page: Path) -> None:
    commands = helm_commands(page)
    assert commands
    for command in commands:
        sets = [option for i, option in enumerate(command) if "--set" in (option, command[i - 1])]
        filled = [option.replace("$REGISTRY", "registry.example.com") for option in sets]
        if any("canary.release" in option for option in filled):  # a change of a release that has our route
            filled += ["--set", "ingress.kind=route,ingress.route.hostnames={doggos.example.com}"]
        result = run(find_program("helm"), "template", "doggos", str(CHART), *filled)
        assert result.returncode == 0, f"{shlex.join(command)}\n{result.stderr}"


def keys(values: Any, path: str = "") -> set[str]:
    if not isinstance(values, dict):
        return {path}
    return {path} | {key for name, value in values.items() for key in keys(value, f"{path}.{name}".strip("."))}


def test_every_value_that_is_named_is_there() -> None:
    named = re.findall(rf"`((?:{'|'.join(VALUES)})\.[A-Za-z.]+)", PAGES[1].read_text())
    assert len(named) > 20
    programs = {"predictor.export"}
    assert set(named) - programs - keys(VALUES) == set()


def test_every_overlay_and_component_that_is_named_is_there() -> None:
    named = {
        name for page in PAGES for name in re.findall(r"manifests/((?:overlays|components)/[a-z-]+)", page.read_text())
    }
    assert named
    assert [name for name in named if not (MANIFESTS / name).is_dir()] == []
