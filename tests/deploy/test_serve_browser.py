"""The page in a real Chromium: drop, paste or choose a picture; it asks no other place."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

import resight
from browser import faults_of
from resight.datasets import Dataset
from resight.deploy.serve import render_page
from resight.deploy.server import PageServer
from resight.deploy.viewer import inspect_picture, open_viewer
from resight.events import ignore_events

pytestmark = pytest.mark.slow

HOSTILE = "<img src=x onerror=alert(1)>"

# Puts a file with these bytes on the page, as a person drops or pastes it.
GIVE = """
([kind, bytes, name]) => {
  const file = new File([new Uint8Array(bytes)], name, { type: "image/png" });
  const data = new DataTransfer();
  if (bytes.length) data.items.add(file);
  const event = kind === "drop"
    ? new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true })
    : new ClipboardEvent("paste", { clipboardData: data, bubbles: true });
  document.querySelector("#drop").dispatchEvent(event);
}
"""


@pytest.fixture(scope="module")
def server(trained_run: resight.Run, tiny: Dataset) -> Iterator[PageServer]:
    """The server of a run, one of whose classes has a hostile name."""
    viewer = open_viewer(trained_run, data=tiny, model=None, device="cpu", on_event=ignore_events)
    viewer = replace(viewer, info=replace(viewer.info, classes=(HOSTILE, "bar", "frame")))
    page = render_page(trained_run, viewer)
    server = PageServer(0, page, lambda content: inspect_picture(viewer, content))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def page(browser: Browser, server: PageServer) -> Iterator[Page]:
    """The page; a complaint of the browser, or a request of any other place, fails the test."""
    page = browser.new_page()
    page.set_default_timeout(20_000)
    faults = faults_of(page, lambda url: url.startswith((server.url, "data:")))
    page.goto(server.url)
    yield page
    page.close()
    # The browser names each response that is an error, and nothing else may be there.
    assert [fault for fault in faults if "status of 422" not in fault] == []


@pytest.fixture
def photo(tmp_path: Path, tiny: Dataset) -> Path:
    """A picture of the class with the hostile name, larger than what the network sees."""
    pixels = tiny.test.images[0].permute(1, 2, 0).numpy()
    image = Image.fromarray(pixels).resize((300, 240), Image.Resampling.NEAREST)
    image.save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def expect_result(page: Page) -> None:
    expect(page.locator("#result")).to_be_visible()
    expect(page.locator("#problem")).to_be_hidden()
    expect(page.locator("#status")).to_contain_text("Predicted: ")
    expect(page.locator("#classes > div")).to_have_count(3)
    layers = page.locator("#strip th[scope=col]").count()
    assert layers > 0
    expect(page.locator("#strip img")).to_have_count(2 * layers)
    expect(page.locator("#neighbors li")).to_have_count(8)
    page.wait_for_function("[...document.images].every(i => i.complete && i.naturalWidth > 0)")


def test_a_file_is_chosen(page: Page, photo: Path) -> None:
    expect(page.locator("#result")).to_be_hidden()
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Choose a picture").click()
    chooser.value.set_files(photo)
    expect_result(page)
    expect(page.locator("#file-name")).to_have_text("photo.png")
    expect(page.locator("#seen-figure")).to_be_visible()
    # The hostile name is text: the alt of images, and what the page says.
    assert page.locator("img[src=x]").count() == 0
    assert HOSTILE in page.locator("#classes").inner_text()


def test_the_keyboard_is_enough(page: Page, photo: Path) -> None:
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Tab")
        expect(page.locator("#choose")).to_be_focused()
        page.keyboard.press("Enter")
    chooser.value.set_files(photo)
    expect_result(page)


@pytest.mark.parametrize("kind", ["drop", "paste"])
def test_a_picture_is_dropped_or_pasted(page: Page, photo: Path, kind: str) -> None:
    page.evaluate(GIVE, [kind, list(photo.read_bytes()), "mine.png"])
    expect_result(page)
    expect(page.locator("#file-name")).to_have_text("mine.png")


def test_another_picture_takes_its_place(page: Page, photo: Path, tmp_path: Path) -> None:
    small = tmp_path / "small.png"
    Image.fromarray(np.zeros((16, 16, 3), dtype=np.uint8)).save(small)
    for path in (photo, small, photo):
        page.set_input_files("#file", path)
        expect(page.locator("#file-name")).to_have_text(path.name)
        expect_result(page)
    page.set_input_files("#file", small)
    expect(page.locator("#seen-figure")).to_be_hidden()  # it is what the network saw


def test_what_is_no_picture_gets_a_line(page: Page, tmp_path: Path, photo: Path) -> None:
    problem = page.locator("#problem")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and then nothing")
    page.set_input_files("#file", tmp_path / "broken.png")
    expect(problem).to_contain_text("this file cannot be read as a picture")
    expect(page.locator("#result")).to_be_hidden()
    (tmp_path / "large.png").write_bytes(bytes(21 * 2**20))
    page.set_input_files("#file", tmp_path / "large.png")
    expect(problem).to_contain_text("up to 20 MB")
    page.evaluate(GIVE, ["drop", [], ""])
    expect(problem).to_contain_text("That holds no picture file")
    page.set_input_files("#file", photo)
    expect_result(page)


def test_the_policy_holds(browser: Browser, server: PageServer) -> None:
    """No other place can be asked, and no other script runs."""
    page = browser.new_page()
    page.goto(server.url)
    ask = "fetch('http://127.0.0.1:9/').then(() => 'sent', () => 'refused')"
    assert page.evaluate(ask) == "refused"
    page.evaluate(
        "document.body.append(Object.assign(document.createElement('script'), "
        "{ textContent: 'document.title = \"taken\"' }))"
    )
    assert page.title() != "taken"
    page.close()


def test_a_narrow_dark_page_has_no_overflow(
    browser: Browser, server: PageServer, photo: Path
) -> None:
    page = browser.new_page(color_scheme="dark", viewport={"width": 360, "height": 700})
    page.goto(server.url)
    page.set_input_files("#file", photo)
    expect_result(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert max(map(int, ground.removeprefix("rgb(").removesuffix(")").split(","))) < 60
    page.close()
