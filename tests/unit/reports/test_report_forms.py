"""Reports as PDF and HTML: the same bytes each time, all that is said can be read, nothing is taken for markup."""

from __future__ import annotations

import re
from base64 import b64decode
from decimal import Decimal
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhir_gateway.errors import NotFoundError
from fhir_gateway.reports.charts import lettered, svg
from fhir_gateway.reports.document import Bar, Chart, Document, Section, Table, Text, money, percent, plain
from fhir_gateway.reports.forms import FORMS, write
from fhir_gateway.reports.html import POLICY
from tests.support.pages_read import html_tables, pdf_words

D = Decimal
CHART = Chart(
    "A & B",
    "a gain, a loss, and nothing",
    (
        Bar("gain", D("10.50"), "10.50 USD", bounds=(9, 12), mark=11),
        Bar("loss", D(-5), "-5 USD"),
        Bar("nothing", 0, "0 USD", start=0),
    ),
)
TABLE = Table("Numbers & names", ("Name", "Amount"), (("Łódź <b>", "1,234.50"), ("Søn", "−7")), frozenset({1}))
REPORT = Document(
    "A report <i>of</i> & about",
    "Me & Co",
    (("For", "Łódź"),),
    (Section("First", (Text("Said."), CHART, TABLE)),),
    "en",
)


@pytest.mark.parametrize("form", FORMS)
def test_the_same_report_is_the_same_bytes(form: str) -> None:
    assert write(REPORT, form) == write(REPORT, form)


def test_a_pdf_says_everything_as_text_that_can_be_searched() -> None:
    words = pdf_words(write(REPORT, "pdf"))
    for said in ("A report <i>of</i> & about", "For: Łódz", "Łódz <b>", "1,234.50", "Søn", "−7", "10.50 USD", "A & B"):
        assert said in words  # the font has no ź


@given(st.text(max_size=40))
def test_what_a_font_lacks_is_written_with_what_it_has(text: str) -> None:
    spelled = lettered(text)
    assert len(spelled) == len(text)
    assert lettered(spelled) == spelled


def test_a_page_says_everything_to_who_does_not_see_it() -> None:
    page = write(REPORT, "html").decode()
    assert page.startswith('<!doctype html>\n<html lang="en">')
    assert "A report &lt;i&gt;of&lt;/i&gt; &amp; about" in page
    assert html_tables(page.encode())["Numbers & names"] == [list(TABLE.head), *map(list, TABLE.rows)]
    assert 'alt="a gain, a loss, and nothing"' in page
    assert re.findall(r"<(script|link|iframe|object)", page) == []
    assert re.findall(r"(?:src|href)=\"(?!data:)", page) == []


def test_a_page_is_served_with_a_policy_of_its_own_style() -> None:
    import hashlib
    from base64 import b64encode

    style = re.search(r"<style>(.*?)</style>", write(REPORT, "html").decode(), re.DOTALL)
    assert style
    digest = b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert f"'sha256-{digest}'" in POLICY
    assert "unsafe" not in POLICY
    assert "style=" not in re.sub(r"base64,[^\"]*", "", write(REPORT, "html").decode())


def test_a_chart_is_a_picture_of_its_bars() -> None:
    root = ElementTree.fromstring(svg(CHART))  # noqa: S314 - our own
    names = {one.tag.rpartition("}")[2] for one in root.iter()}
    assert {"rect", "text", "path", "title", "desc"} <= names
    texts = ["".join(one.itertext()) for one in root.iter() if one.tag.endswith("}text")]
    assert [one for bar in CHART.bars for one in (bar.label, bar.shown) if one not in texts] == []
    assert next(one.text for one in root.iter() if one.tag.endswith("}title")) == "A & B"
    picture = re.search(r"base64,([^\"]*)", write(REPORT, "html").decode())
    assert picture
    assert b64decode(picture[1]).decode() == svg(CHART)


def test_a_bar_that_is_long_ends_where_its_value_is() -> None:
    widths = {}
    for value in (10, 20, 40):
        root = ElementTree.fromstring(svg(Chart("t", "s", (Bar("a", value, ""), Bar("all", 40, "")))))  # noqa: S314
        bars = [one for one in root.iter() if one.tag.endswith("}rect") and one.get("y") != "0"]
        widths[value] = float(bars[0].get("width", "0"))
    assert widths[20] == pytest.approx(2 * widths[10])
    assert widths[40] == pytest.approx(4 * widths[10])


@given(st.lists(st.tuples(st.text(min_size=1, max_size=60), st.decimals(-(10**9), 10**9, places=2)), max_size=8))
def test_any_names_and_amounts_can_be_drawn(values: list[tuple[str, Decimal]]) -> None:
    cleaned = [(re.sub(r"[^\x20-\x7e\u00a0-\u02ff]", "?", name), value) for name, value in values]
    chart = Chart("t", "s", tuple(Bar(name, value, f"{value}") for name, value in cleaned))
    ElementTree.fromstring(svg(chart))  # noqa: S314


def test_numbers_are_written_for_readers() -> None:
    assert money(D("1234567.8"), "USD") == "1,234,567.8 USD"
    assert money(D("810369.09705"), "USD") == "810,369.10 USD"
    assert money(D(5), "EUR") == "5 EUR"
    assert money(None, "USD") == "–"
    assert percent(D("0.6265")) == "62.6 %"
    assert percent(0.3045) == "30.4 %"
    assert percent(None) == "–"
    assert plain(1076) == "1,076"
    assert plain(D("159.570")) == "159.57"


def test_another_form_is_none() -> None:
    with pytest.raises(NotFoundError, match="pdf or html"):
        write(REPORT, "doc")
