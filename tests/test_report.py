import math
import re
from html.parser import HTMLParser

from herd.report import Report, chart, number


class _Balance(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open = []

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "path", "circle"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in ("path", "circle"):
            assert self.open.pop() == tag


def test_a_report_is_whole_safe_and_offline(tmp_path):
    report = Report("Run <1>", "made by herd")
    report.heading("Loss & more")
    report.table(["name", "score"], [["<script>alert(1)</script>", 0.123456], ["b", None]], "two rows")
    report.lines({"a": [(1, 3.0), (2, math.nan), (10, 2.5)], "b": [(5, 1.0)]}, x="steps", y="loss", log_x=True)
    report.fold("worst", "<img src=x onerror=alert(1)>")
    report.examples(["verdict", "kind"], [(("wrong", 'a"b'), "first", "text"), (("right", "c"), "second", "text")])
    report.write(tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert page.count("<script>") == 1  # the filter's own
    assert "<img" not in page
    assert "0.1235" in page
    assert not re.search(r"<[^>]*(?:src|href)=|https?://|@import|url\(", page)
    parser = _Balance()
    parser.feed(page.removeprefix("<!doctype html>"))
    assert parser.open == []


def test_charts_of_odd_curves():
    assert "nan" not in chart({"flat": [(0, 1), (1, 1)], "none": [], "inf": [(0, math.inf)]}, x="x", y="y")
    assert chart({}, x="x", y="y").startswith("<svg")


def test_numbers_are_short():
    assert [number(v) for v in (None, 3.0, 0.00012346, 1234567, "x", True)] == ["", "3", "0.0001235", "1,234,567", "x", "True"]  # fmt: skip
