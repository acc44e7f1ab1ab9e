"""The page, used as people use it, in front of the real service."""

import base64
import json
import subprocess
from pathlib import Path

import httpx
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from launch import picture_server, running
from tests.browser.conftest import Visit, Visitor
from tests.conftest import LOOPBACK_ONLY, Service

pytestmark = pytest.mark.browser

PHONE = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "is_mobile": True, "has_touch": True}
LOOKS = {"light": {}, "dark": {"color_scheme": "dark"}, "phone": PHONE}

# What the operating system does when a file or a link is dropped or pasted.
TRANSFER = """([kind, name, type, content]) => {
  const transfer = new DataTransfer();
  const bytes = () => Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
  if (name) transfer.items.add(new File([bytes()], name, {type}));
  else transfer.setData(type, content);
  const fields = {bubbles: true, cancelable: true};
  document.body.dispatchEvent(kind === "paste"
    ? new ClipboardEvent(kind, {...fields, clipboardData: transfer})
    : new DragEvent(kind, {...fields, dataTransfer: transfer}));
}"""


def transfer_file(page: Page, kind: str, file: Path) -> None:
    page.evaluate(TRANSFER, [kind, file.name, "image/jpeg", base64.b64encode(file.read_bytes()).decode()])


def transfer_link(page: Page, kind: str, link: str) -> None:
    page.evaluate(TRANSFER, [kind, "", "text/uri-list" if kind == "drop" else "text/plain", link])


@pytest.fixture
def visitor(visit: Visit, service: Service) -> Visitor:
    return visit(service.url).open()


def ask(service: Service, picture: Path, k: int = 4, n: int = 12) -> tuple[list[str], list[str]]:
    """What the service says without the page: classes, most probable first, and the paths of the matches."""
    files = {"file": picture.read_bytes()}
    answer = httpx.post(f"{service.url}/predict/?k={k}&n={n}", files=files, timeout=30).json()
    probabilities = answer["probabilities"]
    return sorted(probabilities, key=lambda name: -probabilities[name]), [m["path"] for m in answer["top_matches"]]


def shown(visitor: Visitor) -> tuple[list[str], list[str]]:
    """The same of the page, which shows the first classes only."""
    names = visitor.bars.locator(".name").all()
    tiles = visitor.tiles.all()
    return [str(n.get_attribute("title")) for n in names], [str(tile.get_attribute("title")) for tile in tiles]


def expect_answer(visitor: Visitor, service: Service, picture: Path, k: int = 4, n: int = 12) -> None:
    visitor.wait_for_answer()
    classes, paths = ask(service, picture, k, n)
    assert shown(visitor) == (classes[:6], paths)
    expect(visitor.page.get_by_alt_text("The picture you asked about")).to_be_visible()


def wait_for_pictures(visitor: Visitor) -> None:
    """Until all pictures on the screen are there; those below it are loaded when they are scrolled to."""
    visitor.page.wait_for_function("""() => [...document.images].every((image) => {
      const {top, width} = image.getBoundingClientRect();
      return !width || top > innerHeight || (image.complete && image.naturalWidth);
    })""")


def test_the_welcome_explains_itself_and_offers_pictures(visitor: Visitor) -> None:
    page = visitor.page
    expect(page.get_by_text("Knows 384 pictures of 16 classes.")).to_be_visible()
    expect(page.get_by_text("Drop a picture here")).to_be_visible()
    examples = page.locator("#example-list button")
    expect(examples).to_have_count(8)
    wait_for_pictures(visitor)
    examples.nth(3).click()
    visitor.wait_for_answer()
    assert shown(visitor)[0][0] == "lemon_labrador"
    assert shown(visitor)[1][0] == "lemon_labrador/000.jpg", "the picture itself is the most similar one"


def test_a_chosen_file_is_answered_as_the_api_answers_it(visitor: Visitor, service: Service) -> None:
    picture = service.held_out[0]
    visitor.choose(picture)
    expect_answer(visitor, service, picture)
    wait_for_pictures(visitor)
    first = visitor.bars.first
    percent = float(first.locator(".number").inner_text().rstrip("%"))
    share = first.locator(".fill").evaluate("fill => fill.offsetWidth / fill.parentElement.offsetWidth")
    assert share == pytest.approx(percent / 100, abs=0.01)
    similarities = [float(text.split()[-1]) for text in visitor.tiles.locator(".number").all_inner_texts()]
    assert similarities == sorted(similarities, reverse=True)
    expect(visitor.page.locator("#time")).to_contain_text("answered in")


@pytest.mark.parametrize("kind", ["drop", "paste"])
def test_a_picture_or_a_link_can_be_dropped_and_pasted(visitor: Visitor, service: Service, kind: str) -> None:
    first, second = service.held_out[2], service.held_out[5]
    transfer_file(visitor.page, kind, first)
    expect_answer(visitor, service, first)
    transfer_link(visitor.page, kind, service.picture_url(second))
    expect(visitor.page.locator("#caption")).to_have_text(service.picture_url(second))
    expect_answer(visitor, service, second)


def test_a_link_can_be_sent_to_somebody(visitor: Visitor, visit: Visit, service: Service) -> None:
    picture = service.held_out[7]
    visitor.look_up(service.picture_url(picture))
    expect_answer(visitor, service, picture)
    visitor.page.get_by_label("Pictures to find").fill("3")
    visitor.page.get_by_label("Pictures to find").press("Enter")
    expect(visitor.tiles).to_have_count(3)
    friend = visit(service.url).open(visitor.page.url.removeprefix(f"{service.url}/"))
    expect_answer(friend, service, picture, n=3)


def test_numbers_change_the_answer(visitor: Visitor, service: Service) -> None:
    picture = service.held_out[0]
    visitor.choose(picture)
    expect_answer(visitor, service, picture)
    page = visitor.page
    page.get_by_label("Classes to search").fill("7")
    page.get_by_label("Pictures to find").fill("20")
    page.get_by_label("Pictures to find").blur()
    expect(visitor.tiles).to_have_count(20)
    expect(page.locator(".chip")).to_have_count(7)
    expect_answer(visitor, service, picture, k=7, n=20)


def test_a_class_can_be_clicked_off_and_on(visitor: Visitor, service: Service) -> None:
    picture = service.held_out[0]
    visitor.choose(picture)
    expect_answer(visitor, service, picture)
    best = shown(visitor)[0][0]
    before = shown(visitor)[1]
    chip = visitor.page.locator(".chip", has=visitor.page.locator(f".name[title='{best}']"))
    chip.click()
    expect(chip).to_have_attribute("aria-pressed", "false")
    expect(visitor.tiles).to_have_count(12)
    visitor.wait_for_answer()
    assert best not in visitor.classes_of_tiles()
    wide = ask(service, picture, n=100)[1]
    others = [path for path in wide if not path.startswith(f"{best}/")]
    assert shown(visitor)[1] == others[:12], "its place is filled with the most similar of the other classes"
    chip.click()
    expect(chip).to_have_attribute("aria-pressed", "true")
    assert shown(visitor)[1] == before


def test_a_click_on_a_match_searches_by_it_and_back_returns(visitor: Visitor, service: Service) -> None:
    picture = service.held_out[0]
    visitor.choose(picture)
    expect_answer(visitor, service, picture)
    match = shown(visitor)[1][2]
    visitor.tiles.nth(2).click()
    expect(visitor.page.locator("#caption")).to_have_text(match)
    visitor.wait_for_answer()
    assert shown(visitor)[1][0] == match
    assert float(visitor.tiles.first.locator(".number").inner_text().split()[-1]) > 0.998
    assert visitor.page.url.endswith(f"?picture={match.replace('/', '%2F')}")
    visitor.page.go_back()
    expect(visitor.page.locator("#caption")).to_have_text(picture.name)
    expect_answer(visitor, service, picture)
    visitor.page.go_back()
    expect(visitor.page.get_by_text("Drop a picture here")).to_be_visible()
    visitor.page.go_forward()
    expect_answer(visitor, service, picture)


def test_the_request_runs_in_a_shell_and_gives_the_answer(visitor: Visitor, service: Service, tmp_path: Path) -> None:
    page = visitor.page
    odd = tmp_path / "it's a \"dog\", isn't it?.jpg"
    odd.write_bytes(service.held_out[3].read_bytes())
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    visitor.choose(odd).wait_for_answer()
    page.get_by_text("The request, for a shell").click()
    page.get_by_text("The answer, as JSON").click()
    for search in (
        lambda: None,
        lambda: visitor.look_up(service.picture_url(service.held_out[4])),
        lambda: visitor.tiles.nth(1).click(),
    ):
        search()
        visitor.wait_for_answer()
        page.get_by_role("button", name="Copy", exact=True).click()
        expect(page.get_by_role("button", name="Copied")).to_be_visible()
        line = page.evaluate("navigator.clipboard.readText()")
        done = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, timeout=60, check=True)
        assert json.loads(done.stdout) == json.loads(page.locator("#json-text").inner_text()), line
        expect(page.get_by_role("button", name="Copy", exact=True)).to_be_visible()


def test_errors_are_the_services_own_sentences(visitor: Visitor, service: Service, tmp_path: Path) -> None:
    visitor.expects_refusals = True
    page = visitor.page
    visitor.look_up(f"{service.pictures}/nothing.jpg")
    expect(visitor.error).to_contain_text("404")
    expect(visitor.error).to_contain_text("424")
    visitor.audit()
    visitor.look_up("http://10.0.0.1/dog.jpg")
    expect(visitor.error).to_contain_text("the picture's address is not a public one")
    visitor.look_up("")
    expect(visitor.error).to_contain_text("the URL must be absolute")
    text = tmp_path / "dog.jpg"
    text.write_text("this is no picture")
    visitor.choose(text)
    expect(visitor.error).to_contain_text("the picture is not a JPEG, PNG")
    large = tmp_path / "large.jpg"
    large.write_bytes(bytes(20_000_001))
    visitor.choose(large)
    expect(visitor.error).to_contain_text("more than 20000000 bytes")
    visitor.choose(service.held_out[0]).wait_for_answer()
    expect(visitor.error).to_be_hidden()
    for value, sentence in (("0", "k, the number of classes"), ("", "k must be a whole"), ("1.5", "k must be a whole")):
        page.get_by_label("Classes to search").fill(value)
        page.get_by_label("Classes to search").blur()
        expect(visitor.error).to_contain_text(sentence)
    page.get_by_label("Classes to search").fill("2")
    page.get_by_label("Classes to search").blur()
    visitor.wait_for_answer()
    expect(visitor.error).to_be_hidden()


def test_a_kind_that_browsers_do_not_show_is_shown(visitor: Visitor, service: Service, tmp_path: Path) -> None:
    scan = tmp_path / "scan.tiff"
    Image.open(service.held_out[0]).save(scan)
    visitor.choose(scan)
    visitor.wait_for_answer()
    expect(visitor.page.get_by_alt_text("The picture you asked about")).to_be_visible()


def test_keyboard_only(visitor: Visitor, service: Service) -> None:
    page = visitor.page
    expect(page.locator("#example-list button")).to_have_count(8)
    focus = page.locator(":focus")

    def press_tab_until(selector: str, most: int = 40) -> None:
        for _ in range(most):
            page.keyboard.press("Tab")
            if focus.evaluate("(focused, selector) => focused.matches(selector)", selector):
                return
        raise AssertionError(f"{selector} is not within {most} presses of Tab")

    press_tab_until("#file")
    with page.expect_file_chooser():
        page.keyboard.press("Enter")
    press_tab_until("#url")
    outline = focus.evaluate("focused => getComputedStyle(focused).outlineStyle")
    assert outline == "solid", "one sees where one is"
    page.keyboard.type(service.picture_url(service.held_out[0]))
    page.keyboard.press("Enter")
    visitor.wait_for_answer()
    press_tab_until("#more")
    page.keyboard.press("Enter")
    expect(visitor.bars).to_have_count(16)
    press_tab_until(".chip")
    page.keyboard.press("Space")
    expect(page.locator(".chip").first).to_have_attribute("aria-pressed", "false")
    visitor.wait_for_answer()
    expect(page.locator(".chip").first).to_be_focused()
    page.keyboard.press("Space")
    press_tab_until("button.tile")
    page.keyboard.press("Enter")
    visitor.wait_for_answer()
    expect(page.locator("#picture")).to_be_focused()
    expect(page.get_by_role("status")).to_contain_text("Most probable:")


@pytest.mark.parametrize("look", LOOKS)
def test_every_state_is_accessible(visit: Visit, service: Service, look: str) -> None:
    visitor = visit(service.url, **LOOKS[look]).open()
    expect(visitor.page.locator("#example-list button")).to_have_count(8)
    visitor.audit()
    visitor.choose(service.held_out[0]).wait_for_answer()
    visitor.page.locator(".chip").nth(1).click()
    visitor.page.locator("#more").click()
    for summary in visitor.page.locator("summary").all():
        summary.click()
    visitor.wait_for_answer()
    visitor.audit()
    width = visitor.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert width == 0, "nothing is wider than the screen"


def test_a_phone_is_enough(visit: Visit, service: Service) -> None:
    visitor = visit(service.url, **PHONE).open()
    expect(visitor.page.get_by_text("Drop a picture here")).to_be_in_viewport()
    visitor.choose(service.held_out[0]).wait_for_answer()
    expect(visitor.bars.first).to_be_in_viewport()
    small = """buttons => buttons.filter(b => Math.min(b.offsetWidth, b.offsetHeight) < 36).map(b => b.outerHTML)"""
    assert visitor.page.locator("button:visible, label.button:visible").evaluate_all(small) == []
    visitor.tiles.nth(1).tap()
    visitor.wait_for_answer()
    expect(visitor.page.locator("#picture")).to_be_in_viewport()


def test_pictures_may_come_from_a_template(visit: Visit, service: Service, tmp_path: Path) -> None:
    workshop = service.workshop
    with picture_server(workshop.images) as pictures:
        flags = ["--predictor_host", service.predictor.http, "--index_dir", str(workshop.index), *LOOPBACK_ONLY]
        flags += ["--url_template", f"{pictures}/{{path}}"]
        with running("transformer", flags, tmp_path / "transformer.log") as server:
            visitor = visit(f"http://{server.http}").open()
            visitor.pictures_from = pictures.removeprefix("http://")
            visitor.page.locator("#example-list button").nth(2).click()
            visitor.wait_for_answer()
            wait_for_pictures(visitor)
            match = shown(visitor)[1][1]
            visitor.tiles.nth(1).click()
            expect(visitor.page.locator("#caption")).to_have_text(f"{pictures}/{match}")
            visitor.wait_for_answer()
            assert shown(visitor)[1][0] == match
            expect(visitor.tiles.first).to_contain_text("1.000")


def test_scripts_from_elsewhere_do_not_run(visitor: Visitor) -> None:
    """The policy holds even if markup were injected."""
    inject = """() => {
      const script = document.createElement("script");
      script.textContent = "window.injected = true";
      document.body.append(script);
      document.body.insertAdjacentHTML("beforeend", '<img src="page/none.png" onerror="window.injected = true">');
      return new Promise((done) => setTimeout(() => done(Boolean(window.injected)), 500));
    }"""
    assert visitor.page.evaluate(inject) is False
    refused = [text for text in visitor.complaints if "Content Security Policy" in text]
    assert len(refused) == 2, visitor.complaints
    visitor.complaints.clear()
