"""Photograph the page for the README, in a real browser: `python tests/page_picture.py docs/images`.

It writes page.png, in the light, and page_dark.png, both of an example that the embedded checkpoint was asked about.
"""

import sys
import tempfile
from pathlib import Path

from conftest import BROWSER, BROWSER_FLAGS
from PIL import Image
from playwright.sync_api import sync_playwright
from space_process import Page

SHOTS = {"page.png": "light", "page_dark.png": "dark"}


def photograph(url, out, scheme, browser):
    """Ask about an example with true labels, and photograph what comes."""
    page = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme=scheme, device_scale_factor=1.5)
    page.goto(url, wait_until="domcontentloaded")
    page.wait_for_selector("#ask")
    page.get_by_role("button", name="Living room").click()
    page.wait_for_selector("#recording button[aria-label='Clear']")
    page.click("#ask")
    page.wait_for_selector("#status .done", timeout=60000)
    page.wait_for_selector("#picture .js-plotly-plot")
    page.mouse.move(0, 0)
    page.wait_for_timeout(1500)  # until what fades has faded
    page.screenshot(path=out, full_page=True)
    page.close()
    with Image.open(out) as image:
        image.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(out, optimize=True)


def main(folder):
    """Write both pictures into a folder."""
    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, headless=True, args=BROWSER_FLAGS)
        page = Page(Path(temporary) / "page")
        try:
            page.wait()
            for name, scheme in SHOTS.items():
                photograph(page.url, Path(folder) / name, scheme, browser)
        finally:
            page.stop()
            browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
