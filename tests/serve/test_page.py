"""The page in a real browser, against the real model, with real clicks. Needs Chromium (Debian's `chromium`)."""

import json
import shutil

import pytest

from tests.serve.server import serving

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium"), pytest.mark.xdist_group("page")]
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

# Markdown and HTML that would run, load or submit something if they were let.
PAYLOADS = [
    "<script>window.hacked=1</script>", "<img src=x onerror=window.hacked=1>", "<svg onload=window.hacked=1>",
    "<svg><script>window.hacked=1</script></svg>", "<iframe srcdoc='<script>parent.hacked=1</script>'></iframe>",
    "<iframe src=javascript:parent.hacked=1></iframe>", "<body onload=window.hacked=1>", "<details open ontoggle=window.hacked=1>x</details>",
    "<a href=javascript:window.hacked=1>click</a>", "[click](javascript:window.hacked=1)", "[click](  javascript:window.hacked=1)",
    "[click](JaVaScRiPt:window.hacked=1)", "[click](data:text/html,<script>window.hacked=1</script>)", "[click](vbscript:x)",
    "![x](x\"onerror=\"window.hacked=1)", "![x](javascript:window.hacked=1)", "<input autofocus onfocus=window.hacked=1>",
    "<select autofocus onfocus=window.hacked=1>", "<textarea autofocus onfocus=window.hacked=1>", "<video><source onerror=window.hacked=1></video>",
    "<audio src=x onerror=window.hacked=1>", "<object data=javascript:window.hacked=1></object>", "<embed src=javascript:window.hacked=1>",
    "<math><mtext><script>window.hacked=1</script></mtext></math>", "<style>@import 'javascript:window.hacked=1';</style>",
    "<link rel=stylesheet href=javascript:window.hacked=1>", "<meta http-equiv=refresh content='0;url=javascript:window.hacked=1'>",
    "<base href=javascript:window.hacked=1//>", "<form action=javascript:window.hacked=1><button>go</button></form>",
    "<form id=x></form><button form=x formaction=javascript:window.hacked=1>go</button>", "<isindex action=javascript:window.hacked=1 type=image>",
    "<marquee onstart=window.hacked=1>x</marquee>", "<div style=\"background:url(javascript:window.hacked=1)\">x</div>",
    "<div style=\"width:expression(window.hacked=1)\">x</div>", "<p onmouseover=window.hacked=1>x</p>", "<p onclick=window.hacked=1>x</p>",
    "<table background=javascript:window.hacked=1><tr><td>x</td></tr></table>", "<template><script>window.hacked=1</script></template>",
    "<noscript><p title=\"</noscript><img src=x onerror=window.hacked=1>\"></noscript>", "<a href=\"java&#115;cript:window.hacked=1\">x</a>",
    "<svg><a xlink:href=javascript:window.hacked=1><text y=20>x</text></a></svg>", "<svg><animate onbegin=window.hacked=1 attributeName=x>",
    "<math><mi//xlink:href=\"data:x,<script>window.hacked=1</script>\">", "```html\n<script>window.hacked=1</script>\n```",
    "`<img src=x onerror=window.hacked=1>`", "<!--<img src=\"--><img src=x onerror=window.hacked=1//\">", "<x contenteditable onblur=window.hacked=1>x</x>",
    "<button onclick=window.hacked=1>x</button>", "<a target=_blank href=data:text/html,x>x</a>", "<img src=//example.com/beacon.png>",
]  # fmt: skip


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield opened
        opened.close()


@pytest.fixture
def page(browser, server):
    opened = browser.new_page(viewport={"width": 1100, "height": 800})
    opened.problems = []
    opened.on("pageerror", lambda error: opened.problems.append(str(error)))
    opened.on("console", lambda line: opened.problems.append(line.text) if line.type == "error" else None)
    outside = []
    opened.on(
        "request",
        lambda request: (
            outside.append(request.url) if not request.url.startswith((server.url, "blob:", "data:")) else None
        ),
    )
    opened.goto(server.url)
    opened.wait_for_function("() => document.getElementById('model').textContent !== 'herd'")
    yield opened
    assert outside == []
    opened.close()


def ask(page, text, tokens="24"):
    if page.locator("#settings").is_hidden():
        page.click("#settings-button")
    page.fill("#max_tokens", tokens)
    page.fill("#input", text)
    page.press("#input", "Enter")
    page.wait_for_selector("article.assistant:last-of-type .note", timeout=60_000)


def test_a_conversation_with_copy_regenerate_edit_branch_and_reload(page):
    ask(page, "Say hello.")
    assert page.locator("article.assistant .text").inner_text().strip()
    assert "tokens/s" in page.locator("article.assistant .note").inner_text()
    page.get_by_role("button", name="Make this reply anew").click()
    page.wait_for_selector("article.assistant:last-of-type .note")
    assert "2/2" in page.locator("article.assistant .actions").inner_text()
    page.get_by_role("button", name="Previous version").click()
    assert "1/2" in page.locator("article.assistant .actions").inner_text()
    page.get_by_role("button", name="Edit this message").click()
    page.get_by_label("Edit the message").fill("Say goodbye.")
    page.keyboard.press("Enter")
    page.wait_for_selector("article.assistant .note")
    assert page.locator("article.user .text").inner_text() == "Say goodbye."
    page.reload()
    page.wait_for_selector("article.user")
    assert page.locator("article.user .text").inner_text() == "Say goodbye."
    page.get_by_role("button", name="Previous version").first.click()
    assert page.locator("article.user .text").inner_text() == "Say hello."
    assert page.problems == []


def test_stop_search_export_import_and_delete(page, tmp_path):
    page.click("#settings-button")
    page.fill("#max_tokens", "2000")
    page.fill("#input", "Write a long story about a fox.")
    page.press("#input", "Enter")
    page.wait_for_function("() => document.querySelector('article.assistant .text')?.textContent.length > 20")
    page.keyboard.press("Escape")
    page.wait_for_selector("article.assistant .note")
    assert page.locator("article.assistant .note").inner_text() == "stopped"
    page.click("#new")
    ask(page, "Count to three.")
    assert page.locator("#conversations li").count() == 2
    page.fill("#search", "FOX")
    assert page.locator("#conversations li").count() == 1
    page.fill("#search", "")
    with page.expect_download() as saved:
        page.click("#export")
    path = tmp_path / "kept.json"
    saved.value.save_as(path)
    assert len(json.loads(path.read_text())) == 2
    page.on("dialog", lambda dialog: dialog.accept())
    for _ in range(2):
        page.locator("#conversations .remove").first.click()
    assert page.locator("#conversations li").count() == 0
    page.set_input_files("#import-file", path)
    page.wait_for_function("() => document.querySelectorAll('#conversations li').length === 2")
    broken = tmp_path / "broken.json"
    broken.write_text('[{"id": 1}]')
    page.set_input_files("#import-file", broken)
    page.wait_for_function("() => document.getElementById('notice').textContent.includes('Not imported')")
    assert page.problems == []


def test_nothing_that_is_written_runs(page, server):
    """As a user's message, as a model's, and as an imported conversation's."""
    assert len(PAYLOADS) >= 50
    nodes, chosen = {}, {"": "n0"}
    for i, payload in enumerate(PAYLOADS):
        role = "assistant" if i % 2 else "user"
        both = [payload, PAYLOADS[i - 1]] if i % 2 else [PAYLOADS[(i + 1) % len(PAYLOADS)]]
        nodes[f"n{i}"] = {
            "id": f"n{i}", "parent": f"n{i - 1}" if i else "", "role": role, "content": "\n\n".join(both), "note": payload,
            "tools": [{"name": payload, "arguments": {"code": payload}, "output": payload}] if role == "assistant" else [],
        }  # fmt: skip
        chosen[f"n{i}"] = f"n{i + 1}"
    kept = [{"id": "c", "title": PAYLOADS[1], "created": 0, "nodes": nodes, "chosen": chosen}]
    page.evaluate("kept => localStorage.setItem('herd-conversations', JSON.stringify(kept))", kept)
    page.reload()
    page.wait_for_function(f"() => document.querySelectorAll('article').length === {len(PAYLOADS)}")
    for link in page.locator("article .text a").all():
        href = link.get_attribute("href")
        assert href is None or href.startswith(("http", "mailto")), href
    page.evaluate("document.querySelectorAll('article .text *').forEach(e => e.click?.())")
    page.wait_for_timeout(300)
    assert page.evaluate("window.hacked") is None
    assert (
        page.locator(
            "article .text :is(script, iframe, img, svg, form, input, style, object, embed, link, meta, base)"
        ).count()
        == 0
    )
    assert [p for p in page.problems if "Content Security Policy" not in p] == []


def test_eight_languages_are_shown_and_typed(page):
    texts = {
        "en": "Hello", "de": "Grüß Gott", "fr": "Où êtes-vous ?", "it": "Perché no?", "pt": "Não há", "es": "¿Qué tal, niño?",
        "hi": "नमस्ते दुनिया, क्षत्रिय", "th": "สวัสดีชาวโลก ก็ไม่เป็นไร",
    }  # fmt: skip
    page.fill("#input", " / ".join(texts.values()))
    page.fill("#search", "x")
    page.fill("#search", "")
    page.click("#settings-button")
    page.fill("#max_tokens", "4")
    page.press("#input", "Enter")
    page.wait_for_selector("article.assistant .note")
    assert page.locator("article.user .text").inner_text() == " / ".join(texts.values())


def test_keyboard_and_labels(page):
    page.keyboard.press("Tab")
    unnamed = page.evaluate(
        "[...document.querySelectorAll('button, input:not([hidden]), textarea')].filter(e => !(e.getAttribute('aria-label') || e.textContent.trim()"
        " || e.labels?.length || e.type === 'file')).map(e => e.outerHTML)"
    )
    assert unnamed == []
    page.locator("#model").click()
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "input"
    page.click("#theme")
    first = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.click("#theme")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != first


def test_a_phone_has_no_sideways_scrolling(browser, server):
    phone = browser.new_page(viewport={"width": 390, "height": 844})
    phone.goto(server.url)
    phone.wait_for_function("() => document.getElementById('model').textContent !== 'herd'")
    phone.click("#settings-button")
    assert phone.evaluate("document.documentElement.scrollWidth") <= 390
    phone.click("#settings-button")
    phone.click("#open-sidebar")
    assert phone.locator("#sidebar").is_visible()
    phone.click("#close-sidebar")
    assert phone.locator("#input").is_visible()
    phone.close()


def test_a_page_of_several_models_asks_the_one_that_was_chosen(browser, tmp_path):
    with serving(tmp_path, "smollm2-135m", "smollm2-135m", "--name", "one,two") as server:
        page = browser.new_page()
        page.goto(server.url)
        page.select_option("#models", "two")
        ask(page, "Hello.", "4")
        page.reload()
        page.wait_for_function("() => document.getElementById('models').value === 'two'")
        assert [record["model"] for record in server.records() if record["method"] == "POST"] == ["two"]
        page.close()
