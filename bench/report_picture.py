"""The two pictures of a report for the documentation, taken in a real browser.

    python bench/report_picture.py runs/NAME docs/images [NUMBER]

`report.png` is the top of the page, with the causes of the mistakes. `report-image.png` is one
image of the most frequent confusion (by default the first), opened before the confusion matrix.
Needs playwright and a Chromium.
"""

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
# The open image beside the matrix, and not over it.
BESIDE = """
    dialog { margin: auto 20px 20px auto; box-shadow: 0 12px 48px rgb(8 12 16 / 0.3); }
    dialog::backdrop { background: none; }
    :focus-visible { outline: none; }
"""


def main(run: Path, folder: Path, number: int = 1) -> None:
    chromium = next(filter(None, map(shutil.which, NAMES)))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1480, "height": 940}, color_scheme="light")
        page.goto((run / "report.html").resolve().as_uri())
        page.wait_for_selector("html[data-ready]")
        page.add_style_tag(content=BESIDE)
        page.screenshot(path=folder / "report.png")
        page.locator("#pairs button").first.click()
        page.locator(".card").nth(number - 1).click()
        page.screenshot(path=folder / "report-image.png")
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:]))
