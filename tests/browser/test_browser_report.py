"""Pages of `tandem bench` in a real browser: opened from a file, light and dark."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from load_reports import random_rows, report, row
from playwright.sync_api import Browser, ConsoleMessage, Page, expect

from tandem.bench.report.bounds import Bounds
from tandem.bench.report.compare_page import compare_page
from tandem.bench.report.comparison import compare
from tandem.bench.report.load_page import load_page

BOUNDS = Bounds(ttft_ms=250.0, tpot_ms=12.0)
EVIL = "<img src=x onerror=alert(1)><script>alert(1)</script>"
# What is wider than the window it is in.
OVERFLOWS = """() => document.documentElement.scrollWidth > document.documentElement.clientWidth"""
COLOURS = """() => {
  const style = (query, name) => getComputedStyle(document.querySelector(query))[name];
  return [style("body", "backgroundColor"), style("svg .curve.blue", "stroke")];
}"""


@pytest.fixture(params=["light", "dark"])
def page(chromium: Browser, request: pytest.FixtureRequest) -> Iterator[Page]:
    context = chromium.new_context(
        viewport={"width": 1366, "height": 768}, color_scheme=request.param
    )
    yield context.new_page()
    context.close()


def opened(page: Page, file: Path, document: str) -> list[str]:
    """What the browser has to say against it, once it is there."""
    complaints: list[str] = []

    def on_console(message: ConsoleMessage) -> None:
        complaints.append(message.text)

    page.on("console", on_console)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on(
        "request", lambda sent: complaints.append(sent.url) if sent.url != file.as_uri() else None
    )
    file.write_text(document)
    page.goto(file.as_uri())
    return complaints


def rows() -> list[Any]:
    return [*random_rows(200), row(12_000, None, problem=EVIL)]


def test_a_load(page: Page, tmp_path: Path) -> None:
    made = report(rows(), bounds=BOUNDS, model=EVIL)
    complaints = opened(page, tmp_path / "load.html", load_page(made))
    expect(page.locator("h1")).to_have_text(f"{EVIL} under load")
    expect(page.locator(".limit")).to_contain_text("Limited by: decode.")
    # Three distributions, one over time, one over prompt length, and the stages.
    expect(page.locator("svg")).to_have_count(6)
    for plot in page.locator("svg").all():
        box = plot.bounding_box()
        assert box and box["width"] > 200 and box["height"] > 20
    assert not page.evaluate(OVERFLOWS)
    assert complaints == []


def test_on_a_phone_a_name_is_a_word_and_no_column(page: Page, tmp_path: Path) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    opened(page, tmp_path / "load.html", load_page(report(random_rows(200), bounds=BOUNDS)))
    for name in ("TTFT", "Latency", "workload"):
        box = page.locator("td.wide", has_text=re.compile(f"^{name}$")).bounding_box()
        assert box and box["height"] < 40, name
    assert not page.evaluate(OVERFLOWS)


def test_a_comparison(page: Page, tmp_path: Path) -> None:
    compared = compare(
        report(rows(), bounds=BOUNDS), report(random_rows(200, slower=1.3), bounds=BOUNDS)
    )
    document = compare_page(compared, ("before", EVIL))
    complaints = opened(page, tmp_path / "compared.html", document)
    expect(page.locator("td", has_text="TTFT p50")).to_be_visible()
    expect(page.locator("td .bad").first).to_have_text("worse")
    expect(page.locator("svg")).to_have_count(5)
    assert not page.evaluate(OVERFLOWS)
    assert complaints == []


def test_colours_follow_the_system(chromium: Browser, tmp_path: Path) -> None:
    seen = set()
    for scheme in ("light", "dark"):
        context = chromium.new_context(color_scheme=scheme)  # type: ignore[arg-type]
        page = context.new_page()
        opened(page, tmp_path / "load.html", load_page(report(random_rows(20))))
        seen.update(page.evaluate(COLOURS))
        context.close()
    assert len(seen) == 4
