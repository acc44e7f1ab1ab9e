"""A visitor with a real browser, who notices what goes wrong on the way."""

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, expect, sync_playwright

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FAILED_ANSWER = "Failed to load resource"  # the console's line for every answer that is an error
expect.set_options(timeout=20_000)


@dataclass
class Visitor:
    """A page, what it asked for and what it complained about."""

    page: Page
    service: str
    complaints: list[str] = field(default_factory=list)
    hosts: set[str] = field(default_factory=set)
    expects_refusals: bool = False
    pictures_from: str = ""  # another host that pictures may come from

    def __post_init__(self) -> None:
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.hosts.add(urlsplit(request.url).netloc))
        self.page.on("filechooser", lambda _: None)  # from now on none is opened on the screen
        self.page.on("dialog", lambda dialog: self.complaints.append(f"a dialog: {dialog.message}"))

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning", "assert"):
            self.complaints.append(message.text)

    def open(self, address: str = "") -> "Visitor":
        """Go there."""
        self.page.goto(f"{self.service}/{address}")
        return self

    def choose(self, *files: Any) -> "Visitor":
        """Choose a file in the dialogue that a click on the page opens."""
        with self.page.expect_file_chooser() as chooser:
            self.page.locator("label[for=file]:visible").first.click()
        chooser.value.set_files(*files)
        return self

    def look_up(self, link: str) -> "Visitor":
        """Enter a link."""
        self.page.get_by_label("link of a picture").fill(link)
        self.page.get_by_role("button", name="Look up").click()
        return self

    def wait_for_answer(self) -> "Visitor":
        """Until the answer is there and nothing is under way."""
        expect(self.page.locator("#answer:not(.old)")).to_be_visible()
        expect(self.page.locator("#progress")).to_be_hidden()
        return self

    @property
    def bars(self) -> Locator:
        return self.page.locator("#bars li")

    @property
    def tiles(self) -> Locator:
        return self.page.locator("#matches .tile")

    @property
    def error(self) -> Locator:
        return self.page.get_by_role("alert")

    def classes_of_tiles(self) -> list[str]:
        """The exact class of each match."""
        return [str(name.get_attribute("title")) for name in self.tiles.locator(".name").all()]

    def audit(self) -> None:
        """No fault that axe-core calls serious or critical."""
        self.page.wait_for_timeout(400)  # colours that are on their way are judged as they are at that moment
        faults = Axe().run(self.page).response["violations"]
        serious = [fault for fault in faults if fault["impact"] in ("serious", "critical")]
        assert not serious, [(fault["id"], [node["html"] for node in fault["nodes"]]) for fault in serious]

    def check(self) -> None:
        """Nothing left the service's host, and nothing was complained about."""
        assert self.hosts - {"", self.pictures_from} == {urlsplit(self.service).netloc}
        refusals = [text for text in self.complaints if text.startswith(FAILED_ANSWER)]
        assert [text for text in self.complaints if text not in refusals] == []
        assert bool(refusals) == self.expects_refusals, refusals


@pytest.fixture(scope="session", autouse=True)
def browser() -> Iterator[Browser]:
    """Chromium, as the system has it; asked for first, because without it no servers are needed."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"there is no browser: none of {', '.join(BROWSERS)} is on the PATH (apt-get install chromium)")
    flags = ["--no-sandbox"] if os.geteuid() == 0 else []  # the sandbox does not work for root
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=flags)
        yield browser
        browser.close()


Visit = Callable[..., Visitor]


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visit]:
    """Makes visitors of a service; at the end each is checked."""
    visitors: list[Visitor] = []

    def make(service: str, **options: Any) -> Visitor:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 860}, **options})
        context.set_default_timeout(20_000)
        visitors.append(Visitor(context.new_page(), service))
        return visitors[-1]

    yield make
    for visitor in visitors:
        visitor.page.context.close()
    for visitor in visitors:
        visitor.check()
