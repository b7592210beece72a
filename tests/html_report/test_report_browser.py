"""The report in a real Chromium, opened from disk: it works, and asks for nothing."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib import colormaps
from playwright.sync_api import Browser, Page, expect

import resight
from browser import faults_of
from report_runs import CLASSES, add_causes, make_neighbors, make_predictions, make_run
from resight.datasets import Dataset, Split
from resight.datasets.corrections import corrected
from resight.html_report import write_page as build
from resight.recipe.presets import load_recipe
from resight.recipe.toml import with_overrides
from resight.records import Predictions
from resight.runs.gallery import GalleryMaps, write_gallery

pytestmark = pytest.mark.slow

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"


@pytest.fixture(scope="module")
def predictions() -> Predictions:
    return make_predictions()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory, predictions: Predictions) -> Path:
    path = tmp_path_factory.mktemp("runs") / "a"
    return build(make_run(path, load_recipe("base"), predictions))


class Opened:
    """A page and everything it complained about or asked for."""

    def __init__(self, browser: Browser, path: Path, **how: Any) -> None:
        self.page = browser.new_page(**how)
        self.page.set_default_timeout(10_000)
        # data: is in the page itself, blob: the file that is downloaded
        own = path.as_uri()
        self.faults = faults_of(
            self.page, lambda url: url == own or url.startswith(("data:", "blob:"))
        )
        self.page.goto(own)
        if self.page.locator("#data").count():
            self.page.wait_for_selector("html[data-ready]")


@pytest.fixture
def page(browser: Browser, report: Path) -> Iterator[Page]:
    """The report; a message on the console or a request of any kind fails the test."""
    opened = Opened(browser, report)
    yield opened.page
    opened.page.close()
    assert opened.faults == []


def test_the_report_works_in_the_frame_of_a_notebook(
    browser: Browser, report: Path, tmp_path: Path
) -> None:
    notebook = tmp_path / "notebook.html"
    shown = resight.show(resight.Run.open(report.parent))._repr_mimebundle_()
    notebook.write_text(f"<!doctype html>{shown['text/html']}", encoding="utf-8")
    opened = Opened(browser, notebook)
    frame = opened.page.frame_locator("iframe")
    frame.locator("html[data-ready]").wait_for()
    frame.locator(".card").first.wait_for()
    opened.page.close()
    assert opened.faults == []


def cell(page: Page, true: int, pred: int) -> Any:
    return page.locator("#matrix tbody tr").nth(true).locator("td").nth(pred)


def shown_rows(page: Page) -> list[int]:
    """The rows of all images of the selection, in their order."""
    while page.locator("#more").is_visible():
        page.click("#more")
    rows: list[int] = page.eval_on_selector_all(".card", "all => all.map(x => +x.dataset.row)")
    return rows


def pixels(page: Page, selector: str, nth: int = 0) -> Any:
    """(M, 3) what is drawn on a canvas, at every 29th pixel."""
    values = page.eval_on_selector_all(
        selector,
        """(all, nth) => { const c = all[nth];
        const drawn = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
        return Array.from(drawn.filter((_, i) => i % (4 * 29) < 3)) }""",
        nth,
    )
    return np.array(values).reshape(-1, 3)


def test_it_opens_with_the_mistakes_worst_first(page: Page, predictions: Predictions) -> None:
    wrong = np.flatnonzero(~predictions.correct)
    expect(page.locator("#count")).to_have_text(
        f"{len(wrong)} images of 150, {len(wrong) / 1.5:.1f} %"
    )
    assert shown_rows(page) == sorted(wrong, key=lambda row: -predictions.losses[row])
    assert page.locator("svg").count() == 5


def test_a_cell_shows_its_images(page: Page, predictions: Predictions) -> None:
    pairs = predictions.labels * 3 + predictions.preds
    for true, pred in ((0, 1), (2, 2)):
        cell(page, true, pred).click()
        expect(cell(page, true, pred)).to_have_attribute("aria-selected", "true")
        rows = np.flatnonzero(pairs == 3 * true + pred)
        assert cell(page, true, pred).inner_text() == str(len(rows))
        assert sorted(shown_rows(page)) == rows.tolist()
    first = page.locator(".card").first
    assert first.get_attribute("title") == predictions.ids[shown_rows(page)[0]]
    cell(page, 2, 2).click()  # once more: all mistakes again
    expect(cell(page, 2, 2)).to_have_attribute("aria-selected", "false")
    assert len(shown_rows(page)) == (~predictions.correct).sum()
    page.locator("#matrix thead th").nth(1).click()  # a whole column
    assert all(predictions.preds[row] == 1 for row in shown_rows(page))
    page.locator("#pairs button").first.click()
    assert len(shown_rows(page)) == np.bincount(pairs[~predictions.correct]).max()


def test_filters_and_sorting(page: Page, predictions: Predictions) -> None:
    page.select_option("#verdict", "right")
    page.fill("#low", "50")
    page.fill("#high", "90.5")
    sure, right = predictions.confidence, predictions.correct
    rows = np.flatnonzero(right & (sure >= 0.5) & (sure <= 0.905))
    for order, key in {
        "loss": -predictions.losses,
        "loss-up": predictions.losses,
        "sure": -sure,
        "unsure": sure,
        "order": np.arange(150),
    }.items():
        page.select_option("#sort", order)
        assert shown_rows(page) == sorted(rows, key=lambda row: key[row])
    page.click("#reset")
    page.select_option("#verdict", "all")
    page.select_option("#true", label="dog")
    page.fill("#text", "004")
    assert sorted(shown_rows(page)) == [
        row
        for row, id in enumerate(predictions.ids)
        if "004" in id and predictions.labels[row] == 1
    ]
    page.fill("#text", "nowhere")
    expect(page.locator("#cards")).to_have_text("No image is like that.")
    expect(page.locator("#csv")).to_be_disabled()


def test_the_matrix_by_keyboard(page: Page, predictions: Predictions) -> None:
    page.locator('#matrix [tabindex="0"]').focus()
    assert page.locator('#matrix [tabindex="0"]').count() == 1
    for key in ("ArrowRight", "ArrowDown", "ArrowDown", "ArrowUp"):
        page.keyboard.press(key)
    expect(cell(page, 1, 1)).to_be_focused()
    page.keyboard.press("ArrowLeft")
    outline = cell(page, 1, 0).evaluate("x => getComputedStyle(x).outlineStyle")
    assert outline == "solid"  # one can see where one is
    assert cell(page, 1, 0).get_attribute("aria-label").startswith("dog taken for cat: ")
    page.keyboard.press("Enter")
    assert all(
        (predictions.labels[row], predictions.preds[row]) == (1, 0) for row in shown_rows(page)
    )
    cell(page, 1, 0).focus()
    page.keyboard.press("Escape")
    assert page.input_value("#true") == "-1"
    page.keyboard.press("Home")
    expect(page.locator("#matrix tbody th").nth(1)).to_be_focused()
    page.keyboard.press("ArrowLeft")  # the border
    expect(page.locator("#matrix tbody th").nth(1)).to_be_focused()


def test_the_viewer_by_keyboard(page: Page) -> None:
    rows = shown_rows(page)
    page.locator(".card").nth(2).focus()
    page.keyboard.press("Enter")
    viewer = page.locator("#viewer")
    expect(viewer).to_be_visible()
    expect(page.locator("#close")).to_be_focused()
    expect(page.locator("#viewer-place")).to_have_text(f"3 of {len(rows)}")
    page.keyboard.press("Escape")
    expect(viewer).to_be_hidden()
    expect(page.locator(".card").nth(2)).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#viewer-place")).to_have_text(f"4 of {len(rows)}")
    page.keyboard.press("Escape")
    expect(page.locator(".card").nth(3)).to_be_focused()


def test_the_slider_goes_from_the_image_to_the_map(page: Page, predictions: Predictions) -> None:
    page.locator(".card").first.click()
    row = shown_rows(page)[0]
    true, pred = predictions.labels[row], predictions.preds[row]
    expect(page.locator("#viewer-title")).to_have_text(
        f"✗ {CLASSES[true]}, taken for {CLASSES[pred]}"
    )
    assert page.locator("#strip canvas.map").count() == 4  # two layers, two classes
    slider = page.locator("#opacity")
    slider.focus()
    page.keyboard.press("Home")
    assert slider.get_attribute("aria-valuetext") == "0 %"
    image = pixels(page, "canvas.picture")
    np.testing.assert_array_equal(pixels(page, "canvas.map"), image)
    page.keyboard.press("ArrowRight")
    assert slider.input_value() == "1"
    expect(page.locator("#viewer-place")).to_contain_text("1 of")  # still the same image
    slider.fill("60")
    mixed = pixels(page, "canvas.map")
    assert (mixed != image).any()
    page.keyboard.press("End")
    alone = pixels(page, "canvas.map")
    palette = np.rint(255 * colormaps["inferno"](np.arange(256))[:, :3])
    assert {*map(tuple, alone)} <= {*map(tuple, palette)}
    seen = {tuple(pixels(page, "canvas.map", nth).ravel()) for nth in range(4)}
    assert len(seen) == 4


def test_a_right_answer_has_one_row_and_some_have_no_map(
    page: Page, predictions: Predictions
) -> None:
    page.select_option("#verdict", "right")
    page.select_option("#sort", "order")
    page.locator(".card").first.click()
    assert page.locator("#strip canvas.map").count() == 2
    page.keyboard.press("Escape")
    assert shown_rows(page)
    page.locator(".card").last.click()
    assert page.locator("#strip canvas").count() == 1
    expect(page.locator("#viewer-note")).to_contain_text("There is no heat map of this image")
    page.keyboard.press("Escape")
    page.check("#mapped")
    assert len(shown_rows(page)) == (~predictions.correct).sum()


def test_a_label_issue_opens_its_image(page: Page, predictions: Predictions) -> None:
    id = predictions.ids[np.flatnonzero(~predictions.correct)[0]]
    page.locator("#labels .id button").click()
    expect(page.locator("#viewer-id")).to_contain_text(id)
    page.keyboard.press("Escape")
    expect(page.locator("#labels .id button")).to_be_focused()
    page.click("#review")  # all of them, one by one
    expect(page.locator("#viewer-id")).to_contain_text(id)


def test_the_selection_as_csv(page: Page, predictions: Predictions) -> None:
    cell(page, 1, 0).click()
    with page.expect_download() as waiting:
        page.click("#csv")
    assert waiting.value.suggested_filename == "a-images.csv"
    rows = list(csv.DictReader(io.StringIO(Path(waiting.value.path()).read_text())))
    expected = shown_rows(page)
    assert [row["id"] for row in rows] == [predictions.ids[row] for row in expected]
    for row, at in zip(rows, expected, strict=True):
        assert (row["truth"], row["prediction"], row["correct"]) == ("dog", "cat", "False")
        assert float(row["confidence"]) == pytest.approx(predictions.confidence[at], rel=1e-6)
        assert float(row["loss"]) == pytest.approx(predictions.losses[at], rel=1e-6)


@pytest.fixture
def explained(browser: Browser, tmp_path: Path, predictions: Predictions) -> Iterator[Page]:
    """The report of a run with causes."""
    run = make_run(tmp_path / "a", load_recipe("base"), predictions)
    add_causes(run, predictions)
    opened = Opened(browser, build(run))
    yield opened.page
    opened.page.close()
    assert opened.faults == []


def test_a_picture_of_a_cause_opens_it_among_all_of_the_cause(
    explained: Page, predictions: Predictions
) -> None:
    page, wrong = explained, np.flatnonzero(~predictions.correct)
    worst = sorted(wrong.tolist(), key=lambda row: -predictions.losses[row])
    strips = page.locator("#why .tiles")
    assert [strips.nth(i).locator(".tile").count() for i in range(4)] == [8, 3, 8, 1]
    tile = strips.first.locator(".tile").nth(2)
    tile.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#viewer-place")).to_have_text("3 of 12")
    expect(page.locator("#viewer-cause")).to_contain_text("a mark in the corner")
    expect(page.locator("#viewer-id")).to_contain_text(predictions.ids[worst[2]])
    page.keyboard.press("Escape")
    expect(tile).to_be_focused()
    assert shown_rows(page) == worst[:12]
    strips.nth(2).get_by_text(f"All {len(wrong) - 15}").click()
    assert shown_rows(page) == worst[15:]
    page.click("#reset")
    assert shown_rows(page) == worst


def test_every_mistake_is_beside_its_nearest_training_images(
    page: Page, predictions: Predictions
) -> None:
    wrong = np.flatnonzero(~predictions.correct)
    expected = make_neighbors(predictions, wrong)
    first = page.locator(".card").first
    place = wrong.tolist().index(shown_rows(page)[0])
    titles = first.locator(".near canvas").evaluate_all("all => all.map(x => x.title)")
    percents = np.rint(100 * expected.cosines[place]).astype(int).ravel()
    rows = expected.nearest[place].ravel()  # of the predicted class, then of the true one
    assert titles == [
        f"train/{row:03d}.png, {like} % similar" for row, like in zip(rows, percents, strict=True)
    ]
    for nth, row in enumerate(rows):
        assert {*pixels(page, ".card .near canvas", nth).ravel()} == {row}  # it is gray `row`
    first.click()
    assert page.locator("#viewer-near canvas").count() == 6
    page.keyboard.press("Escape")
    page.uncheck("#beside")
    assert page.locator(".card .near").count() == 0


def test_marks_are_kept_and_downloaded_as_tables(
    page: Page, predictions: Predictions, tmp_path: Path
) -> None:
    rows = shown_rows(page)[:4]
    ids, names = [predictions.ids[row] for row in rows], predictions.classes
    cards = page.locator(".card")
    cards.nth(0).focus()
    page.keyboard.press("w")  # the predicted class
    cards.nth(1).focus()
    page.keyboard.press("d")
    cards.nth(2).click()
    page.keyboard.press("k")
    page.keyboard.press("ArrowRight")
    third = next(k for k in range(3) if k not in (predictions.labels[rows[3]],))
    page.select_option("#mark-class", str(third))
    expect(page.locator("#mark-label")).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("Escape")
    count = page.locator("#marks-count")
    expect(count).to_have_text("Marked: 2 wrong labels, 1 to drop, 1 to keep")
    page.reload()
    page.wait_for_selector("html[data-ready]")
    expect(count).to_have_text("Marked: 2 wrong labels, 1 to drop, 1 to keep")
    expect(cards.nth(1).locator(".badge")).to_have_text("drop")
    labels, exclude = (saved(page, f"#{name}-csv", tmp_path) for name in ("labels", "exclude"))
    assert exclude.name == "exclude.csv"
    assert labels.name == "labels.csv"

    images = torch.zeros(len(predictions), 3, 4, 4, dtype=torch.uint8)
    test = Split(images, torch.from_numpy(predictions.labels), predictions.ids)
    train = Split(images[:3], torch.arange(3), ("a", "b", "c"))
    dataset = Dataset("photos", names, train=train, test=test)
    changed = corrected(dataset, relabel=labels, exclude=exclude).test
    new = dict(zip(changed.ids, changed.labels.tolist(), strict=True))
    old = dict(zip(predictions.ids, predictions.labels.tolist(), strict=True))
    assert new == {id: k for id, k in old.items() if id != ids[1]} | {
        ids[0]: int(predictions.preds[rows[0]]),
        ids[3]: third,
    }

    cards.nth(1).focus()
    page.keyboard.press("d")  # the same key takes it back
    expect(page.locator("#exclude-csv")).to_be_disabled()
    page.click("#marks-show")
    assert sorted(shown_rows(page)) == sorted([rows[0], rows[2], rows[3]])
    page.click("#marks-clear")
    expect(page.locator("#marks-clear")).to_have_text("Clear all 3?")
    page.click("#marks-clear")
    expect(page.locator("#marks")).to_be_hidden()


def saved(page: Page, button: str, folder: Path) -> Path:
    """Click, and return the file that is downloaded."""
    with page.expect_download() as waiting:
        page.click(button)
    path = folder / waiting.value.suggested_filename
    waiting.value.save_as(path)
    return path


def test_marks_last_while_the_page_is_open_where_nothing_is_stored(
    browser: Browser, report: Path
) -> None:
    context = browser.new_context()
    context.add_init_script(
        "Object.defineProperty(window, 'localStorage', { get() { throw new Error('no') } })"
    )
    page = context.new_page()
    page.goto(report.as_uri())
    page.wait_for_selector("html[data-ready]")
    page.locator(".card").first.focus()
    page.keyboard.press("k")
    expect(page.locator("#marks-count")).to_have_text(
        "Marked: 0 wrong labels, 0 to drop, 1 to keep"
    )
    page.keyboard.press("?")
    expect(page.locator("#help")).to_be_visible()
    context.close()


def test_everything_has_a_name(page: Page) -> None:
    page.locator(".card").first.click()
    nameless = page.evaluate(
        """() => [...document.querySelectorAll('button, select, input, [role], [tabindex="0"]')]
        .filter(x => !x.hidden && x.role !== 'status' && !(x.ariaLabel || x.labels?.length
            || x.hasAttribute('aria-labelledby') || x.textContent.trim()))
        .map(x => x.outerHTML)"""
    )
    assert nameless == []


def test_light_and_dark(browser: Browser, report: Path) -> None:
    brightness = {}
    for scheme in ("light", "dark"):
        opened = Opened(browser, report, color_scheme=scheme)
        colors = opened.page.evaluate(
            """() => ['body', '.chart', '.chart svg text', '.note'].map(x => {
            const s = getComputedStyle(document.querySelector(x));
            return x.includes('text') ? s.fill : [s.backgroundColor, s.color] }).flat()"""
        )
        brightness[scheme] = [sum(map(int, c[4:-1].split(", "))) for c in colors if "rgb(" in c]
        opened.page.close()
        assert opened.faults == []
    ground, ink, paper, _, chart_text, note = brightness["dark"]
    assert max(ground, paper) < 120 < 400 < min(ink, chart_text, note)
    ground, ink, paper, _, chart_text, note = brightness["light"]
    assert max(ink, chart_text, note) < 350 < 700 < min(ground, paper)


def test_a_phone(browser: Browser, report: Path) -> None:
    opened = Opened(browser, report, viewport={"width": 360, "height": 740}, has_touch=True)
    page = opened.page
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.locator(".card").first.tap()
    box = page.locator("#viewer").bounding_box()
    assert box is not None
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 360
    page.close()
    assert opened.faults == []


def test_print(page: Page) -> None:
    page.emulate_media(media="print", color_scheme="dark")
    for hidden in ("#filters", "#csv", ".toc", "#more"):
        expect(page.locator(hidden)).to_be_hidden()
    expect(page.locator("#matrix")).to_be_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.pdf(format="A4")[:5] == b"%PDF-"


def test_every_map_stays_with_its_image(
    browser: Browser, tmp_path: Path, predictions: Predictions
) -> None:
    wrong, right = np.flatnonzero(~predictions.correct), np.flatnonzero(predictions.correct)
    rows = np.sort(np.concatenate([wrong[:9], right[:9]]))
    # the strongest cell says which image it is: of 3 x 3, one for each class
    maps = np.zeros((2, len(rows), 9), dtype=np.float32)
    for which in range(2):
        maps[which, np.arange(len(rows)), (rows + 4 * which) % 9] = 1
    pair = maps.reshape(2, -1, 3, 3)
    is_right = predictions.correct[rows][:, None, None]
    maps_for = GalleryMaps("block1", pair[0], np.where(is_right, *pair))
    run = make_run(tmp_path / "a", load_recipe("base"), predictions, gallery=False)
    pictures = np.zeros((150, 8, 8, 3), dtype=np.uint8)
    write_gallery(run, pictures, predictions, rows=rows, maps=[maps_for], method="m")

    opened = Opened(browser, build(run))
    page = opened.page
    page.select_option("#verdict", "all")
    page.select_option("#sort", "order")
    page.check("#mapped")
    assert shown_rows(page) == rows.tolist()
    page.locator(".card").first.click()
    places = [
        f"{down} {across}"
        for down in ("top", "middle", "bottom")
        for across in ("left", "center", "right")
    ]
    for row in rows:
        wrong_too = not predictions.correct[row]
        classes = [predictions.preds[row]] + [predictions.labels[row]] * wrong_too
        labels = page.eval_on_selector_all("#strip canvas.map", "all => all.map(x => x.ariaLabel)")
        assert labels == [
            f"block1: what speaks for {CLASSES[k]} is strongest at the {places[cell]}"
            for k, cell in zip(classes, (row % 9, (row + 4) % 9), strict=False)
        ]
        page.keyboard.press("ArrowRight")
    page.close()
    assert opened.faults == []


def test_a_large_map_says_that_it_is_kept_smaller(
    browser: Browser, tmp_path: Path, predictions: Predictions
) -> None:
    run = make_run(tmp_path / "a", load_recipe("base"), predictions, gallery=False)
    wrong = np.flatnonzero(~predictions.correct)[:1]
    maps = [
        GalleryMaps(f"block{side}", *np.ones((2, 1, side, side), dtype=np.float32))
        for side in (64, 4)
    ]
    pictures = np.zeros((150, 64, 64, 3), dtype=np.uint8)
    write_gallery(run, pictures, predictions, rows=wrong, maps=maps, method="m")
    opened = Opened(browser, build(run))
    opened.page.check("#mapped")
    opened.page.locator(".card").first.click()
    heads = opened.page.locator("#strip thead th").all_inner_texts()
    assert [" ".join(head.split()) for head in heads] == [
        "image",
        "block64 64 × 64 map, kept as 32 × 32",
        "block4 4 × 4 map, too coarse to say where",
    ]
    assert opened.page.locator("#strip canvas.map").count() == 4
    opened.page.close()
    assert opened.faults == []


def test_photos_are_shown_as_large_as_they_are_kept(
    browser: Browser, tmp_path: Path, predictions: Predictions
) -> None:
    run = make_run(tmp_path / "a", load_recipe("base"), predictions, gallery=False)
    wrong = np.flatnonzero(~predictions.correct)
    maps = [GalleryMaps("block1", *np.ones((2, len(wrong), 4, 4), dtype=np.float32))]
    seen = np.full((150, 32, 32, 3), 90, dtype=np.uint8)

    def photos(rows: Any, px: int) -> Any:
        gray = np.linspace(0, 255, px).astype(np.uint8)  # dark on the left, bright on the right
        return np.broadcast_to(gray[None, None, :, None], (len(rows), px, px, 3)), 0

    write_gallery(run, seen, predictions, rows=wrong, maps=maps, method="m", photos=photos)
    opened = Opened(browser, build(run))
    page = opened.page
    page.locator(".card").first.click()
    note = page.locator("#viewer-note")
    expect(note).to_contain_text("Shown at 224 px; the network saw 32 px. m: what speaks")
    sizes = page.eval_on_selector_all(
        "#strip canvas", "all => all.map(x => [x.width, x.height, x.clientWidth])"
    )
    assert sizes == [[224, 224, 224]] * 3  # the picture, and a map for each class
    drawn = pixels(page, "#strip canvas.picture")[:, 0].astype(int)
    columns = (np.arange(len(drawn)) * 29) % 224
    assert np.abs(drawn - columns * 255 / 223).mean() < 4
    # The map covers the whole photo: with the slider at 100 % nothing but its strongest color.
    page.locator("#opacity").fill("100")
    assert len(np.unique(pixels(page, "#strip canvas.map"), axis=0)) == 1
    smooth = page.eval_on_selector_all(
        "#strip canvas.picture, .card canvas",
        "all => all.map(x => getComputedStyle(x).imageRendering)",
    )
    assert set(smooth) == {"auto"}
    page.close()
    assert opened.faults == []


def test_names_from_outside_stay_text(browser: Browser, tmp_path: Path) -> None:
    recipe = with_overrides(load_recipe("base"), [f"name={HOSTILE}", f"data.source=x{HOSTILE}"])
    classes = (HOSTILE, "=1+1", '"a"\u2028b')
    predictions = make_predictions(classes=classes, start=f"@{HOSTILE}")
    opened = Opened(browser, build(make_run(tmp_path / "a", recipe, predictions)))
    page = opened.page
    expect(page.locator("h1")).to_contain_text(HOSTILE)
    assert page.locator("#matrix tbody th").all_text_contents() == list(classes)
    assert page.locator("script").count() == 2
    assert page.locator("img[onerror]").count() == 0
    cell(page, 0, 1).click()
    page.locator(".card").first.click()
    expect(page.locator("#viewer-title")).to_have_text(f"✗ {HOSTILE}, taken for =1+1")
    page.keyboard.press("Escape")
    with page.expect_download() as waiting:
        page.click("#csv")
    row = next(csv.DictReader(io.StringIO(Path(waiting.value.path()).read_text())))
    assert row["id"].startswith(f"'@{HOSTILE}")
    page.locator(".card").first.focus()
    page.keyboard.press("w")
    mark = saved(page, "#labels-csv", tmp_path).read_text().splitlines()[1]
    assert mark.startswith("\"'@</script>")
    assert mark.endswith(',"\'=1+1"')
    assert (row["truth"], row["prediction"]) == (HOSTILE, "'=1+1")
    assert opened.faults == []

    # And if something did get in, the policy would not let it run or ask.
    page.evaluate(
        """() => { const s = document.createElement('script'); s.textContent = 'window.ran = 1';
        document.body.append(s); new Image().src = 'https://example.org/x.png' }"""
    )
    assert page.evaluate("window.ran") is None
    assert sum("Content Security Policy" in fault for fault in opened.faults) == 2
    page.close()


def test_a_run_without_pictures_and_one_without_a_result(browser: Browser, tmp_path: Path) -> None:
    recipe = load_recipe("base")
    bare = build(make_run(tmp_path / "a", recipe, make_predictions(40), gallery=False))
    opened = Opened(browser, bare)
    assert opened.page.locator(".card > :not(span)").count() == 0  # words, and no empty frames
    opened.page.locator(".card").first.click()
    expect(opened.page.locator("#viewer-note")).to_have_text(
        "There are no pictures in this report."
    )
    expect(opened.page.locator("#viewer-tools")).to_be_hidden()
    opened.page.close()
    assert opened.faults == []
    logits = np.eye(3, dtype=np.float32)[np.arange(40) % 3]
    perfect = Predictions(tuple(map(str, range(40))), logits, np.arange(40) % 3, CLASSES)
    opened = Opened(browser, build(make_run(tmp_path / "d", recipe, perfect)))
    expect(opened.page.locator("#count")).to_have_text("40 images of 40, 100.0 %")
    expect(opened.page.locator("#pairs")).to_have_text("No image was taken for another class.")
    opened.page.close()
    assert opened.faults == []
    damaged = make_run(tmp_path / "c", recipe, make_predictions(40))
    next((damaged / "gallery").glob("*.webp")).write_bytes(b"no picture")
    opened = Opened(browser, build(damaged))
    opened.page.locator(".card").first.click()
    expect(opened.page.locator("#viewer-note")).to_contain_text("damaged; resight explain")
    opened.page.close()
    stopped = Opened(browser, build(make_run(tmp_path / "b", recipe, None)))
    expect(stopped.page.locator("aside.missing")).to_contain_text("the test set was not read")
    assert stopped.page.locator("#images").count() == 0
    stopped.page.close()
    assert opened.faults == stopped.faults == []
