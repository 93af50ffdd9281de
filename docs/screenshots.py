"""Make the screenshots of the page: python docs/screenshots.py (needs Chromium and a server's tools)."""

import shutil
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.serve.server import serving

IMAGES = Path(__file__).parent / "images"
QUESTION = "Write a Python function that adds two numbers, with an example."
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
VIEWS = {"light": (1200, 800, "light"), "dark": (1200, 800, "dark"), "phone": (390, 844, "light")}


def main() -> None:
    """Ask one question and take a picture of each view."""
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder)) as server, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        for name, (width, height, scheme) in VIEWS.items():
            page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
            page.goto(server.url)
            page.wait_for_selector(".welcome:has-text('Ask')")
            for text in ("नमस्ते! สวัสดี! Say hello.", QUESTION):
                page.fill("#input", text)
                page.press("#input", "Enter")
                page.wait_for_selector("#stop", state="hidden")
                page.wait_for_selector("article.assistant:last-of-type .note", timeout=120_000)
            page.screenshot(path=IMAGES / f"page-{name}.png")
            page.close()
        browser.close()


if __name__ == "__main__":
    main()
