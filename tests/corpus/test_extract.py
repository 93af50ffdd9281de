import time

import pytest

from herd.data.extract import LIMIT, extract

WORDS = "The river runs through the old town and under three bridges before it reaches the sea. "
PAGE = """<!doctype html><html><head><title> A  river </title><script>var x = 'never';</script></head><body>
<nav><ul><li><a href=/>Home</a><li><a href=/n>News</a></ul></nav><div class="share-bar">Share this with friends</div>
<article><h1>A river</h1><p>{0}</p><p>{0}{0}</p>{1}<p>{0}</p></article>
<div class="related-stories"><h3>More stories</h3><p>Another town has a lake that nobody has ever seen before.</p></div>
<footer>Copyright</footer></body></html>"""


def page(inside=""):
    return PAGE.format(WORDS, inside)


def test_the_article_stays_and_what_is_around_it_goes():
    read = extract(page())
    assert read.title == "A river"
    assert read.text.count("three bridges") == 4
    for gone in ("Home", "Share this", "lake", "Copyright", "never"):
        assert gone not in read.text


@pytest.mark.parametrize(
    "code",
    ["def f(x):\n    return x\n\n\n\n    # \t tabs\n", "  leading and trailing  \n\n", "a < b && c > d", "กขค\n\tनमस्ते"],
)
def test_code_is_kept_byte_for_byte(code):
    import html

    text = extract(page(f"<pre><span class=k>{html.escape(code)}</span></pre>")).text
    assert code in text
    assert text.count(code) == 1


@pytest.mark.parametrize(
    "markup, tex",
    [
        ('<math display="block"><semantics><mi>x</mi><annotation encoding="application/x-tex">x^2 + 1</annotation></semantics></math>', "$$x^2 + 1$$"),
        ('<p>So <script type="math/tex">\\frac{a}{b}</script> holds for them all.</p>', "$\\frac{a}{b}$"),
        ('<p>So <span class="MathJax">a/b</span><script type="math/tex; mode=display">a/b</script> holds.</p>', "$$a/b$$"),
        ('<p>So <img class="math" src=x.png alt="e^{i\\pi}"> holds.</p>', "$e^{i\\pi}$"),
        ('<span class="katex"><span class="katex-mathml"><math><semantics><mi>y</mi><annotation encoding="application/x-tex">y_1</annotation></semantics></math></span><span class="katex-html">y1</span></span>', "$y_1$"),
    ],
)  # fmt: skip
def test_a_formula_is_there_once_as_tex(markup, tex):
    text = extract(page(markup)).text
    assert text.count(tex) == 1
    assert "y1" not in text


def test_tables_become_rows():
    text = extract(page("<table><tr><th>Town<th>Bridges<tr><td>Old<td>3<tr><td>New<td>1</table>")).text
    assert "Town | Bridges\nOld | 3\nNew | 1" in text


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "latin-1", "windows-1252"])
def test_bytes_of_any_encoding(encoding):
    markup = page("<p>Ein Fluß, drei Brücken: Straße.</p>").replace("<head>", f"<head><meta charset={encoding}>")
    assert "Fluß, drei Brücken" in extract(markup.encode(encoding)).text


HOSTILE = {
    "deep": "<div>" * 300_000 + "text",
    "deep and closed wrongly": "<div></zzz>" * 200_000 + "text",
    "formatting": "".join(f"<b id=x{i}><p>" for i in range(100_000)) + "text",
    "tables": "<table><tr><td>" * 60_000 + "text",
    "attributes": "<p " + "a " * 500_000 + ">text",
    "one tag": "<" + "a" * 3_000_000 + ">text",
    "open quotes": "<a href='" * 200_000 + "text",
    "comments": "<!--" * 200_000 + "text",
    "entities": "&amp" * 500_000 + "<p>text",
    "closings": "</p>" * 100_000 + "text",
    "large": "<p>text " * (LIMIT // 4),
    "lists": "<ul><li>" * 200_000 + "text",
    "nothing": "<",
    "zeros": "<p>\0te\0xt",
    "scripts": "<script>" * 200_000 + "text",
    "pre": "<pre>x</pre>" * 20_000,
    "math": "<p><math><mi>x</mi></math>" * 10_000,
    "side by side": "<div class=share><p>a<div class=x>" * 240 + "</div></div>" * 240 + "text",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_page_costs_little(name):
    began = time.monotonic()
    extract(HOSTILE[name])
    extract(HOSTILE[name].encode()[:200_000] + b"\xff\xfe\x80")
    assert time.monotonic() - began < 20
