"""The planner's page in a real browser: its sliders give what the command says. Needs Chromium."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import httpx
import pytest
from click.testing import CliRunner

from herd.cli.plan import command

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@contextlib.contextmanager
def planner(folder):
    """A real `herd plan --page` on a free port; its URL."""
    error = folder / "page.txt"
    with error.open("wb") as file:
        process = subprocess.Popen([sys.executable, "-m", "herd", "plan", "--page", "--port", "0"], stderr=file)
    try:
        deadline = time.monotonic() + 60
        while " at http" not in error.read_text():
            assert process.poll() is None, error.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield next(word for word in error.read_text().split() if word.startswith("http"))
    finally:
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(30) == 0


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    with planner(tmp_path_factory.mktemp("plan")) as found:
        yield found


def test_the_page_says_what_the_command_says(url):
    asked = {"model": "llama-3.1-70b", "gpus": 512, "context": 8192, "batch": 2**22, "tokens": 15.6e12}
    page = httpx.get(f"{url}/api/train", params=asked).json()
    words = ["llama-3.1-70b", "--gpus", "512", "--batch", "4M", "--json"]
    told = json.loads(CliRunner().invoke(command, words, catch_exceptions=False).output)
    assert page["plans"][0]["step"] == sum(told["plans"][0]["time"].values())
    assert page["plans"][0]["dollars"] == told["plans"][0]["cost"]["dollars"]
    dearer = httpx.get(f"{url}/api/train", params={**asked, "dollars": 5}).json()
    assert dearer["plans"][0]["dollars"] == 2 * page["plans"][0]["dollars"]


@pytest.mark.parametrize(
    ("what", "asked", "said"),
    [
        ("train", {"model": "llama-9"}, "gpus"),
        ("train", {"model": "llama-9", "gpus": 8}, "llama-9"),
        ("train", {"model": "tiny", "gpus": "many"}, "gpus"),
        ("train", {"model": "llama-3.1-8b", "gpus": 8, "batch": 1000}, "whole sequences"),
        ("train", {"model": "llama-3.1-8b", "gpus": 8, "precision": "fp8", "gpu": "a100"}, "FP8"),
        ("serve", {"model": "tiny", "context": 10**9}, "context"),
        ("faults", {"interval": 0}, "interval"),
        ("faults", {"restart": -1}, "restart"),
        ("fate", {}, "train, serve, faults"),
    ],
)
def test_nonsense_is_refused_in_a_line(url, what, asked, said):
    answer = httpx.get(f"{url}/api/{what}", params=asked)
    assert answer.status_code in (400, 404)
    assert said in answer.json()["error"]


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.xdist_group("page")
def test_sliders_in_a_browser(url, tmp_path):
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        problems = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda line: problems.append(line.text) if line.type == "error" else None)

        def settled():
            page.wait_for_selector("#found:not(.old) h2")

        page.goto(url)
        settled()
        first = page.locator("#found tbody tr").first.inner_text()
        assert first.startswith("TP8 CP1 PP16 DP128")
        slider = page.locator("input[name=gpus]")
        slider.focus()
        slider.press("ArrowLeft")  # half the GPUs, by the keyboard
        page.wait_for_function(f"() => !document.querySelector('#found tbody tr').innerText.startsWith({first[:18]!r})")
        assert "8,192" in slider.evaluate("e => e.closest('label').innerText")
        page.get_by_role("button", name="Failures").click()
        page.wait_for_selector("#effective")
        before = page.locator("#effective").inner_text()
        page.locator("input[name=restart]").press("End")
        page.wait_for_function(f"() => document.querySelector('#effective').innerText !== {before!r}")
        page.get_by_role("button", name="Serve").click()
        page.wait_for_function("() => document.querySelector('#found').innerText.includes('TP8 PP2')")
        assert page.locator("#notice").is_hidden()
        page.locator("input[name=sequences]").press("End")
        page.locator("select[name=model]").select_option("smollm2-135m")
        page.locator("input[name=context]").press("End")  # more than this model takes
        page.wait_for_selector("#notice:visible")
        assert "8,192" in page.locator("#notice").inner_text()
        page.set_viewport_size({"width": 390, "height": 844})
        page.reload()  # the address keeps what was chosen
        page.wait_for_selector("#notice:visible")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert [text for text in problems if "400" not in text] == []
        browser.close()
