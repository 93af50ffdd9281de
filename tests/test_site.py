"""The documentation site is built from the documents, strictly, and its pages ask no other host for anything."""

import importlib.util
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LOADS = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}


class Loads(HTMLParser):
    """What a page loads, and the text of its styles."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.in_style = False

    def handle_starttag(self, tag, attrs):
        self.in_style = tag == "style"
        value = dict(attrs).get(LOADS.get(tag, ""))
        if value:
            self.found.append(value)

    def handle_data(self, data):
        if self.in_style and "url(" in data:
            self.found.append(data.split("url(")[1].strip("\"' "))

    def handle_endtag(self, tag):
        self.in_style = False


def outside(address: str) -> bool:
    return address.startswith(("http:", "https:", "//"))


@pytest.mark.slow
@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("mkdocs", "material", "mkdocstrings")),
    reason="needs the extra `site`: pip install -e '.[site]'",
)
def test_the_site_is_whole_and_asks_no_other_host(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    documents = [path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md")]
    assert len(documents) > 30
    for document in documents:
        page = document.with_name("index.html") if document.name == "README.md" else document.with_suffix(".html")
        assert (tmp_path / page).is_file(), document
    loaded = 0
    for page in tmp_path.rglob("*.html"):
        loads = Loads()
        loads.feed(page.read_text())
        assert [address for address in loads.found if outside(address)] == [], page
        loaded += len(loads.found)
    assert loaded > len(documents)  # it found the styles and scripts that there are
    for style in tmp_path.rglob("*.css"):
        text = style.read_text()
        assert not any(f"{start}{host}" in text for start in ("url(", 'url("', "url('") for host in ("http", "//")), (
            style
        )
    api = (tmp_path / "reference" / "api.html").read_text()
    assert 'id="herd.engine.open.open_engine"' in api
    assert 'id="herd.engine.engine.Engine.generate"' in api
    assert 'id="herd.engine.request.SamplingParams.temperature"' in api
    assert (tmp_path / "repository" / "deploy" / "kubernetes.yaml").read_bytes() == (
        ROOT / "deploy" / "kubernetes.yaml"
    ).read_bytes()
    assert 'href="../repository/deploy/kubernetes.yaml"' in (tmp_path / "how-to" / "kubernetes.html").read_text()
