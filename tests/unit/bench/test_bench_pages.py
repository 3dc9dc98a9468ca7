"""Reports as pages: they stand alone, and nothing in them is anything but text."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st
from load_reports import SPEC, random_rows, report, row

from tandem.bench.report.bounds import Bounds
from tandem.bench.report.compare_page import compare_page
from tandem.bench.report.comparison import compare
from tandem.bench.report.limit import LOAD_TOOL, Limit
from tandem.bench.report.load_page import load_page
from tandem.bench.report.svg_plot import Axis, amounts_axis, nice_step, times_axis

EVIL = '</style></title><script>alert(1)</script><img src="http://evil/" onerror=x>"\'&'
VOID = {"meta"}


class Elements(HTMLParser):
    """Names and attributes; whether all that opens closes."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.attributes: set[str] = set()
        self.data: list[str] = []
        self.open: list[str] = []
        self.feed(document)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.attributes.update(name for name, _ in attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.attributes.update(name for name, _ in attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.data.append(data)


def pages() -> list[str]:
    bounds = Bounds(ttft_ms=250.0, tpot_ms=12.0)
    first = report([*random_rows(60), row(9, None, problem="status 503")], bounds=bounds)
    second = report(random_rows(60, slower=1.4), bounds=bounds)
    return [load_page(first), compare_page(compare(first, second), ("before", "after"))]


@pytest.mark.parametrize("number", [0, 1])
def test_a_page_stands_alone(number: int) -> None:
    document = pages()[number]
    elements = Elements(document)
    assert elements.open == []
    assert not elements.names & {"script", "img", "link", "iframe", "object"}
    assert not elements.attributes & {"src", "href", "style", "onload"}
    assert "NaN" not in document
    assert not re.search(r"\bnan\b|\binf\b", document)


@pytest.mark.parametrize("number", [0, 1])
def test_its_policy_allows_its_own_style_sheet_and_nothing_else(number: int) -> None:
    document = pages()[number]
    style = re.search(r"<style>(.*?)</style>", document, re.DOTALL)
    assert style
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    policy = re.search(r'Policy" content="([^"]*)"', document)
    assert policy
    assert f"style-src &#x27;sha256-{digest}&#x27;" in policy[1]
    assert policy[1].startswith("default-src &#x27;none&#x27;")


def test_what_comes_from_elsewhere_is_text() -> None:
    rows = [row(0, None, problem=EVIL), row(5)]
    evil = report(
        rows,
        spec=replace(SPEC, workload=EVIL),
        limit=Limit(EVIL, EVIL),
        model=EVIL,
        url=EVIL,
        protocol=EVIL,
    )
    for document in (load_page(evil), compare_page(compare(evil, evil), (EVIL, EVIL))):
        elements = Elements(document)
        assert not elements.names & {"script", "img"}
        assert "onerror" not in elements.attributes
        assert elements.open == []
        assert any(EVIL in data for data in elements.data)


def test_a_late_load_tool_is_told_loudly() -> None:
    made = load_page(report(random_rows(5), limit=Limit(LOAD_TOOL, "it was late")))
    assert 'class="card limit loud"' in made
    assert "Limited by: load tool." in made


@pytest.mark.parametrize("rows", [[], [row(0, None, problem="x")], [row(0, 5, [])]])
def test_whatever_there_is_makes_a_page(rows: list) -> None:
    made = report(rows, server=None)
    assert Elements(load_page(made)).open == []
    assert Elements(compare_page(compare(made, made), ("a", "b"))).open == []


@pytest.mark.parametrize(
    ("least", "step"), [(0.5, 0.5), (1, 1), (3, 5), (6, 10), (700_000, 1_000_000)]
)
def test_an_axis_has_round_numbers(least: float, step: float) -> None:
    assert nice_step(least) == step


@given(st.floats(1e-6, 1e9), st.floats(1e-6, 1e9), st.booleans(), st.integers(1, 12))
def test_an_axis_has_ticks_within_its_ends(
    one: float, other: float, is_log: bool, most: int
) -> None:
    low, high = sorted((one, other))
    if high / low < 1.01:
        high = low * 2
    axis = Axis("", low if is_log else 0.0, high, is_log)
    ticks = axis.ticks(most)
    assert len(ticks) <= most + 1
    assert ticks == sorted(ticks)
    assert all(-1e-9 <= axis.share(each) <= 1 + 1e-9 for each in ticks)
    assert (axis.share(axis.low), axis.share(axis.high)) == (0, 1)


def test_times_that_reach_far_are_on_a_logarithmic_axis() -> None:
    assert times_axis("", [1.0, 500.0], "{:g}".format).is_log
    assert not times_axis("", [10.0, 50.0], "{:g}".format).is_log
    assert not times_axis("", [], "{:g}".format).is_log
    assert amounts_axis("", [0.0], "{:g}".format).share(0.0) == 0
