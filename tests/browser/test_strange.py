"""The page in front of strange data and strange times: hostile names, 1,000 classes, no pictures, slow answers."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from playwright.sync_api import expect

from launch import Server, running
from tests.browser.conftest import Visit, Visitor
from tests.callers import wait_until
from tests.programs import free_port, program
from tests.stand_ins import CLASSES, StandIn, draw, running_stand_in, write_index

pytestmark = pytest.mark.browser

RED = {"name": "red.png", "mimeType": "image/png", "buffer": draw("red")}
HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "</span></li><script>alert(1)</script>",
    '" onmouseover="alert(1)" x="',
    "javascript:alert(1)",
    "__proto__",
    "constructor",
    "{{7*7}}${7*7}",
    "\u202egnp.god",
    "W" * 300,
    "x y  z/../&amp;?#%00",
)
MANY = (*CLASSES, *HOSTILE, *(f"class_{number:04}" for number in range(1000 - len(CLASSES) - len(HOSTILE))))


@dataclass(frozen=True)
class Strange:
    """A stand-in for the predictor, and a transformer whose pictures are all gone."""

    predictor: StandIn
    server: Server

    @property
    def url(self) -> str:
        return f"http://{self.server.http}"


@pytest.fixture(scope="module")
def strange(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Strange]:
    folder = tmp_path_factory.mktemp("strange")
    (folder / "pictures").mkdir()
    with running_stand_in() as predictor:
        predictor.behave(classes=MANY)
        index = write_index(folder / "index", classes=MANY)
        flags = ["--index_dir", str(index), "--predictor_host", predictor.target]
        flags += ["--image_root", str(folder / "pictures")]
        with running("transformer", flags, folder / "transformer.log") as server:
            yield Strange(predictor, server)


@pytest.fixture
def visitor(visit: Visit, strange: Strange) -> Visitor:
    strange.predictor.behave(classes=MANY)
    visitor = visit(strange.url)
    visitor.expects_refusals = True  # all the pictures are missing
    return visitor.open()


def test_names_are_only_ever_text(visitor: Visitor) -> None:
    page = visitor.page
    page.get_by_label("Classes to search").fill("1000")
    page.get_by_label("Pictures to find").fill("100")
    visitor.choose(RED).wait_for_answer()
    page.locator("#more").click()
    expect(visitor.bars).to_have_count(1000)
    page.get_by_role("button", name="and 988 more").click()
    expect(page.locator(".chip")).to_have_count(1000)
    for place in ("#bars", "#chips"):
        names = page.locator(f"{place} .name").evaluate_all(
            "names => names.map(name => [name.title, name.textContent])"
        )
        assert sorted(title for title, _ in names) == sorted(MANY)
        assert all(text.replace("_", " ") == title.replace("_", " ") for title, text in names), "it is all text"
    for element, count in (("script", 1), ("[onerror], [onmouseover]", 0), ("main iframe, main a", 0)):
        assert page.locator(element).count() == count, element
    assert page.evaluate("({}).alert === undefined && typeof Object.prototype.constructor === 'function'")
    width = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert width == 0, "long names are broken"


def test_a_thousand_classes_are_usable(visitor: Visitor) -> None:
    page = visitor.page
    visitor.choose(RED).wait_for_answer()
    expect(visitor.bars).to_have_count(6)
    page.get_by_role("button", name="Show all 1,000 classes").click()
    expect(visitor.bars).to_have_count(1000)
    page.get_by_label("Find a class").fill("class 0042")
    expect(visitor.bars).to_have_count(1)
    visitor.audit()
    page.get_by_role("button", name="Show only the first").click()
    expect(visitor.bars).to_have_count(6)


def test_matches_are_usable_without_their_pictures(visitor: Visitor) -> None:
    expect(visitor.page.get_by_text("Knows 3,000 pictures of 1,000 classes.")).to_be_visible()
    expect(visitor.page.get_by_text("Nothing at hand?")).to_be_hidden()
    visitor.choose(RED).wait_for_answer()
    expect(visitor.tiles.first.locator(".missing")).to_have_text("red/0.png")
    expect(visitor.tiles.first).to_contain_text("1.000")
    expect(visitor.tiles.first).to_be_disabled()
    visitor.audit()


def test_a_slow_answer_shows_progress_and_can_be_cancelled(visitor: Visitor, strange: Strange) -> None:
    page = visitor.page
    page.get_by_label("Pictures to find").fill("50")
    visitor.choose(RED).wait_for_answer()
    page.locator("summary").last.scroll_into_view_if_needed()
    strange.predictor.behave(classes=MANY, delay=60)
    page.get_by_label("Pictures to find").fill("20")
    page.get_by_label("Pictures to find").press("Enter")
    expect(page.get_by_text("Asking the service…")).to_be_in_viewport(ratio=1)
    wait_until(lambda: strange.predictor.running, "the request is at the predictor")
    before = page.locator("#elapsed").inner_text()
    expect(page.locator("#elapsed")).not_to_have_text(before)
    visitor.audit()
    page.get_by_role("button", name="Cancel").click()
    expect(visitor.error).to_contain_text("you cancelled this request")
    expect(page.locator("#progress")).to_be_hidden()
    wait_until(lambda: not strange.predictor.running, "the predictor has stopped working on it")
    strange.predictor.behave(classes=MANY)
    page.get_by_role("button", name="Try again").click()
    visitor.wait_for_answer()
    expect(visitor.error).to_be_hidden()


def test_only_the_last_question_is_answered(visitor: Visitor, strange: Strange) -> None:
    strange.predictor.behave(classes=MANY, delay=60)
    visitor.choose(RED)
    wait_until(lambda: strange.predictor.running, "the first request is at the predictor")
    strange.predictor.behave(classes=MANY)
    visitor.choose({**RED, "name": "blue.png", "buffer": draw("blue")}).wait_for_answer()
    wait_until(lambda: not strange.predictor.running, "the first request is given up")
    expect(visitor.bars.first).to_contain_text("blue")
    expect(visitor.page.locator("#caption")).to_have_text("blue.png")


def test_a_predictor_that_is_gone_or_full_is_said(visitor: Visitor, strange: Strange) -> None:
    full = (grpc.StatusCode.RESOURCE_EXHAUSTED, "the queue is full", {"retry-after": "1"})
    strange.predictor.behave(classes=MANY, error=full)
    visitor.choose(RED)
    expect(visitor.error).to_contain_text("the predictor's queue is full")
    expect(visitor.error).to_contain_text("429")
    strange.predictor.behave(classes=MANY)
    visitor.page.get_by_role("button", name="Try again").click()
    visitor.wait_for_answer()


def test_a_service_that_is_still_loading_or_gone_says_so(visit: Visit, tmp_path: Path) -> None:
    """The page is there before the predictor is, and comes to life by itself; and it survives the service."""
    port = free_port()
    with running_stand_in() as predictor:
        predictor.behave(error=(grpc.StatusCode.UNAVAILABLE, "not yet", {}))
        flags = ["--index_dir", str(write_index(tmp_path / "index")), "--predictor_host", predictor.target]
        with program("transformer", [*flags, "--http_port", str(port)], tmp_path) as server:
            wait_until(lambda: "waiting for the predictor" in server.log.read_text(), "it listens")
            visitor = visit(f"http://127.0.0.1:{port}")
            visitor.expects_refusals = True
            visitor.open()
            expect(visitor.error).to_contain_text("still loading")
            predictor.behave()
            expect(visitor.page.get_by_text("Knows 12 pictures of 4 classes.")).to_be_visible()
            expect(visitor.error).to_be_hidden()
        visitor.choose(RED)
        expect(visitor.error).to_contain_text("the service cannot be reached")
