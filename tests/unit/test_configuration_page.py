"""docs/configuration.md is what the settings say."""

from docs.make_configuration import PAGE, render


def test_the_page_is_fresh() -> None:
    assert PAGE.read_text() == render(), "run make docs"
