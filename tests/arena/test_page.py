"""The arena's page in a real browser with real clicks: one model of the engine, one behind a server. Needs Chromium."""

import shutil
import sqlite3

import pytest

from tests.arena.server import arena, replies
from tests.serve.server import serving
from tests.serve.test_page import PAYLOADS

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium"), pytest.mark.xdist_group("page")]
NAMES = ("zebrafish", "wolverine")


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    with serving(folder, "--threads", "1") as served:
        places = ("zebrafish=smollm2-135m", f"wolverine={served.url}/v1")
        with arena(folder, *places, flags=("--max-tokens", "32", "--threads", "1", "--least-seconds", "0")) as running:
            yield running


def opened(browser, url, **options):
    page = browser.new_context(**{"viewport": {"width": 1100, "height": 800}, "locale": "en-US", **options}).new_page()
    page.problems = []
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("console", lambda line: page.problems.append(line.text) if line.type == "error" else None)
    page.goto(url)
    page.wait_for_function("() => document.title !== '' && document.querySelector('#question').maxLength > 0")
    return page


def ended(page):
    page.wait_for_function("() => !document.querySelector('#votes button').disabled", timeout=60_000)


def test_from_a_question_to_the_ranking_by_clicks_and_by_keys(browser, server, tmp_path):
    page = opened(browser, server.url)
    received = []
    page.on("response", lambda response: received.append(response))
    page.fill("#question", "Name three animals of the forest.")
    page.press("#question", "Enter")
    ended(page)
    assert all(page.locator(f"#{side} .text").inner_text().strip() for side in ("left", "right"))
    assert not any(name in page.content() for name in NAMES)
    page.screenshot(path=tmp_path / "vote-light.png")
    page.get_by_role("button", name="Left is better").click()
    page.wait_for_selector("#next:visible")
    assert sorted(page.locator(f"#{side} h2").inner_text() for side in ("left", "right")) == sorted(NAMES)
    page.screenshot(path=tmp_path / "voted-light.png")
    page.keyboard.press("n")
    page.keyboard.type("Wie alt wird ein Fuchs und warum?")
    page.keyboard.press("Enter")
    ended(page)
    page.keyboard.press("4")
    page.wait_for_selector("#next:visible")
    page.get_by_role("button", name="Ranking").click()
    page.wait_for_selector("#rows tr")
    assert page.locator("#rows tr").count() == 2
    assert page.locator("#counted").inner_text().startswith("Votes counted: 2")
    page.select_option("#by-language", "de")
    page.wait_for_function("() => document.querySelector('#counted').textContent.includes(': 1')")
    kept = sqlite3.connect(server.votes).execute("select winner, language, seconds > 0 from votes order by id")
    assert kept.fetchall() == [(0, "en", 1), (3, "de", 1)]
    assert page.problems == []


def test_a_person_goes_on_with_the_same_two_and_votes_on_all_of_it(browser, server):
    page = opened(browser, server.url)
    page.fill("#question", "Name a colour of the sky.")
    page.press("#question", "Enter")
    ended(page)
    page.wait_for_function("() => document.querySelector('#status').innerText.includes('go on')")
    first = {side: page.locator(f"#{side} .text").inner_text() for side in ("left", "right")}
    page.keyboard.press("/")
    page.keyboard.type("And one of the grass?")
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.querySelectorAll('.before .question').length === 2")
    page.wait_for_function("() => document.querySelector('#status').innerText.includes('go on')", timeout=60_000)
    assert page.locator("#asked").inner_text() == "And one of the grass?"
    for side, answer in first.items():
        assert page.locator(f"#{side} .before .question").inner_text() == "Name a colour of the sky."
        assert page.locator(f"#{side} .before .said").inner_text() == answer
        assert page.locator(f"#{side} .text").inner_text().strip()
    assert not any(name in page.content() for name in NAMES)
    page.keyboard.press("1")
    page.wait_for_selector("#next:visible")
    assert sorted(page.locator(f"#{side} h2").inner_text() for side in ("left", "right")) == sorted(NAMES)
    kept = sqlite3.connect(server.votes).execute("select winner, prompt from votes order by id desc limit 1")
    assert kept.fetchone() == (0, "Name a colour of the sky.\n\nAnd one of the grass?")
    page.keyboard.press("n")
    assert page.locator(".before").first.inner_text() == ""
    assert page.problems == []


def test_a_vote_before_the_answers_have_ended(browser, server):
    page = opened(browser, server.url)
    page.fill("#question", "Tell me a long story about the sea.")
    page.press("#question", "Enter")
    page.wait_for_function("() => !document.querySelector('#votes button').disabled")
    assert page.locator("#status").inner_text() == "Which answer is better?"
    page.keyboard.press("2")
    page.wait_for_selector("#right.chosen")
    assert page.problems == []


def test_eight_languages_dark_and_phone(browser, server, tmp_path):
    phone = opened(browser, server.url, viewport={"width": 390, "height": 844}, color_scheme="dark", locale="th-TH")
    assert phone.evaluate("document.documentElement.lang") == "th"
    texts = phone.evaluate("import('/arena/languages.js').then(m => m.TEXTS)")
    assert set(texts) == {"en", "de", "fr", "it", "pt", "es", "hi", "th"}
    for language, words in texts.items():
        assert set(words) == set(texts["en"]), language
        phone.select_option("#language", language)
        assert phone.locator("#show-round").inner_text() == words["ask"]
        assert phone.evaluate("document.documentElement.scrollWidth") <= 390, language
    phone.select_option("#language", "hi")
    phone.reload()
    assert phone.evaluate("document.documentElement.lang") == "hi"
    phone.fill("#question", "Hello!")
    phone.click("#send")
    ended(phone)
    phone.screenshot(path=tmp_path / "phone-dark.png")
    assert phone.evaluate("document.documentElement.scrollWidth") <= 390
    unnamed = "[...document.querySelectorAll('button, select, textarea')].filter(e => !(e.getAttribute('aria-label') || e.textContent.trim() || e.labels?.length)).length"
    assert phone.evaluate(unnamed) == 0
    first = phone.evaluate("getComputedStyle(document.body).backgroundColor")
    phone.click("#theme")
    assert phone.evaluate("getComputedStyle(document.body).backgroundColor") != first
    assert phone.problems == []


def test_stored_replies_are_voted_on_and_nothing_in_them_runs(browser, tmp_path):
    bad = replies(tmp_path / "zebrafish.jsonl", Go="\n\n".join(PAYLOADS))
    plain = replies(tmp_path / "wolverine.jsonl", Go="\n\n".join(reversed(PAYLOADS)))
    with arena(tmp_path, bad, plain) as server:
        page = opened(browser, server.url)
        page.click("#draw")
        ended(page)
        page.evaluate("document.querySelectorAll('.text *').forEach(e => e.click?.())")
        page.wait_for_timeout(300)
        assert page.evaluate("window.hacked") is None
        assert page.locator(".text :is(script, iframe, img, svg, form, input, style, object, embed, link)").count() == 0
        page.keyboard.press("3")
        page.wait_for_selector("#next:visible")
        assert page.locator("#left h2").inner_text() in NAMES
