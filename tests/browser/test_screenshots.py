"""Pictures of the page's main states; `make screenshots` writes those of the documentation."""

import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import expect

from tests.browser.conftest import Visit
from tests.browser.test_page import LOOKS, wait_for_pictures
from tests.conftest import Service

pytestmark = pytest.mark.browser

MOST_BYTES = 300_000
STATES = {"welcome": "light", "page": "light", "page-dark": "dark", "page-phone": "phone"}


@pytest.mark.parametrize("state", STATES)
def test_screenshot(visit: Visit, service: Service, tmp_path: Path, state: str) -> None:
    options: dict[str, Any] = LOOKS[STATES[state]]
    visitor = visit(service.url, **options).open()
    expect(visitor.page.locator("#example-list button")).to_have_count(8)
    if state != "welcome":
        visitor.choose(service.workshop.asked / "rose_retriever" / "000.jpg").wait_for_answer()
    wait_for_pictures(visitor)
    file = Path(os.environ.get("SCREENSHOTS") or tmp_path) / f"{state}.jpg"
    file.parent.mkdir(parents=True, exist_ok=True)
    visitor.page.mouse.move(0, 0)
    visitor.page.screenshot(path=file, type="jpeg", quality=85, animations="disabled")
    assert file.stat().st_size < MOST_BYTES
    picture = Image.open(file)
    colours = picture.convert("RGB").resize((200, 200)).getcolors(40_000)
    assert colours and len(colours) > 100, "there is something on it"
    brightness = picture.convert("L").getpixel((2, 2))
    assert isinstance(brightness, int) and (brightness < 50) == (state == "page-dark")
