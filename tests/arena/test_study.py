"""A study from plan to report: the real command, raters over HTTP and one in Chromium."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time

import httpx
import pytest

from herd.arena.study import agreement, load, summary
from herd.errors import ConfigError
from tests.arena.server import replies

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PLAN = """models = ["{0}", "{1}"]
prompts = "prompts.jsonl"
raters = ["anna", "bela", "cleo"]
ratings = 2
per_cell = 3
"""


class StudyServer:
    def __init__(self, folder, plan):
        self.error = folder / "study.txt"
        command = [sys.executable, "-m", "herd", "arena", "study", str(plan), "--out", str(folder / "study"), "--port", "0"]  # fmt: skip
        with self.error.open("wb") as error:
            self.process = subprocess.Popen(command, stderr=error)
        deadline = time.monotonic() + 60
        while self.error.read_text().count("?rater=") < 3:
            assert self.process.poll() is None, self.error.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        self.links = dict(line.split(": ", 1) for line in self.error.read_text().splitlines())

    def stop(self, number=signal.SIGTERM):
        if self.process.poll() is None:
            os.kill(self.process.pid, number)
        self.process.wait(30)


@pytest.fixture
def plan(tmp_path):
    questions = [f"What is {i} and why?" for i in range(5)] + ["Was ist das und warum?"]
    (tmp_path / "prompts.jsonl").write_text("".join(f'{{"prompt": "{q}"}}\n' for q in questions))
    good = replies(tmp_path / "zebrafish.jsonl", **{q: f"A good answer to {q}" for q in questions})
    poor = replies(tmp_path / "wolverine.jsonl", **{q: f"A poor answer to {q}" for q in questions})
    path = tmp_path / "plan.toml"
    path.write_text(PLAN.format(good, poor))
    return path


def work_through(link, pick):
    """Rate all that a rater has; every byte that came."""
    base, token = link.split("/?rater=")
    received = httpx.get(link).text
    state = httpx.get(f"{base}/api/item?rater={token}").json()
    while "item" in state:
        received += repr(state)
        body = {"rater": token, "item": state["item"], "value": pick(state["left"])}
        state = httpx.post(f"{base}/api/rate", json=body).json()
    assert state["done"] == state["total"] > 0
    return received


def test_raters_rate_without_names_and_the_report_says_who_won(plan, tmp_path):
    server = StudyServer(tmp_path, plan)
    try:
        for rater in ("anna", "bela"):
            received = work_through(server.links[rater], lambda left: 2 if "good" in left else -2)
            assert "zebrafish" not in received
            assert "wolverine" not in received
        base, token = server.links["anna"].split("/?rater=")
        assert httpx.get(f"{base}/?rater=x").status_code == 403
        for wrong in ({"item": 99, "value": 1}, {"item": 0, "value": 4}):
            answer = httpx.post(f"{base}/api/rate", json={"rater": token, **wrong})
            assert answer.json()["error"]["code"] == "rating"
    finally:
        server.stop(signal.SIGKILL)  # what was acknowledged is there
    study = load(plan, tmp_path / "study")
    counted, left_out, _ = summary(study)
    assert left_out == 0
    assert {study.items[r.item].language for r in counted} == {"en", "de"}
    assert len(study.items) == 4  # three of five in English, and the one in German
    for r in counted:
        assert r.value == (2 if study.items[r.item].first == "zebrafish" else -2)
    assert len(counted) == sum(len(study.assigned(name)) for name in ("anna", "bela"))
    assert sum(len(study.assigned(name)) for name in ("anna", "bela", "cleo")) == 8
    study.close()
    page = tmp_path / "report.html"
    done = subprocess.run([sys.executable, "-m", "herd", "arena", "study", plan, "--out", tmp_path / "study", "--report", page])  # fmt: skip
    assert done.returncode == 0
    text = page.read_text()
    assert "100% (100 to 100)" in text
    assert "Krippendorff" in text
    plan.write_text(plan.read_text() + "seed = 1\n")
    with pytest.raises(ConfigError, match="is not the plan"):
        load(plan, tmp_path / "study")


@pytest.mark.xdist_group("page")
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_rater_in_the_browser(plan, tmp_path):
    playwright = pytest.importorskip("playwright.sync_api")
    server = StudyServer(tmp_path, plan)
    try:
        with playwright.sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
            page = browser.new_page(viewport={"width": 1100, "height": 800}, locale="de-DE")
            page.goto(server.links["cleo"])
            page.wait_for_selector("#scale button")
            assert page.get_by_role("button", name="Links: viel besser").is_visible()
            page.screenshot(path=tmp_path / "study.png")
            total = int(page.locator("#count").inner_text().split(" / ")[1])
            page.keyboard.press("1")
            page.wait_for_function("() => document.querySelector('#count').textContent.startsWith('1 ')")
            for done in range(1, total):
                page.get_by_role("button", name="etwa gleich").click()
                page.wait_for_function(f"() => document.querySelector('#count').textContent.startsWith('{done + 1} ')")
            assert page.locator("#status").inner_text() == "Alles fertig. Danke."
            page.set_viewport_size({"width": 390, "height": 800})
            assert page.evaluate("document.documentElement.scrollWidth") <= 390
            browser.close()
    finally:
        server.stop()
    values = sqlite3.connect(tmp_path / "study" / "ratings.db").execute("select abs(value) from ratings")
    assert sorted(v for (v,) in values) == [0] * (total - 1) + [3]


@pytest.mark.parametrize(
    "change, said",
    [("per_cell = 0", "per_cell"), ("ratings = 9", "ratings is 9"), ('raters = ["a", "a"]', "raters"), ("scale = 5", "scale")],
)  # fmt: skip
def test_a_plan_that_cannot_be_is_refused_by_name(plan, tmp_path, change, said):
    name = change.split(" ")[0]
    kept = [line for line in plan.read_text().splitlines() if not line.startswith(name)]
    plan.write_text("\n".join([*kept, change]))
    with pytest.raises(ConfigError, match=said):
        load(plan, tmp_path / "study")


def test_agreement_of_nobody_cannot_be_told():
    assert agreement([]) is None
