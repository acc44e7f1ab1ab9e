"""What is generated is fresh."""

import pytest

from docs import make_chart_readme
from docs.make_manifests import GENERATED, MANIFESTS, render_file
from tests.manifests.rendering import find_program


@pytest.mark.parametrize("name", GENERATED)
def test_a_manifest_is_what_the_chart_renders(name: str) -> None:
    helm = find_program("helm")
    assert (MANIFESTS / name).read_text() == render_file(name, helm), "run make manifests"


def test_the_charts_readme_is_what_its_values_say() -> None:
    assert make_chart_readme.PAGE.read_text() == make_chart_readme.render(), "run make docs"
