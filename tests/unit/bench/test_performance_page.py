"""What the benchmarks keep, and what docs/performance.md says of it."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest
from performance import page, record
from performance.engine_tables import DECODE, PREFILL, DecodeStep, Prefill
from performance.gpu_tables import GPU_COPIES, GpuCopies
from performance.notes import Notes
from performance.record import FOLDER, Machine, records
from performance.table import Bound

MACHINE = Machine("small-1-core", "one small core")
STEPS = [DecodeStep(1, 1, 128, 12.0, 10.0), DecodeStep(1, 8, 128, 15.0, 10.0, 9.0, 11.0)]


def notes(monkeypatch: pytest.MonkeyPatch, keep: bool) -> Notes:
    monkeypatch.setattr("sys.argv", ["/somewhere/engine.py", "--threads", "1", "--keep"])
    return Notes(argparse.Namespace(keep=keep), MACHINE, "by hand")


def test_the_page_says_what_is_kept() -> None:
    text = page.PAGE.read_text()
    assert page.with_tables(text) == text, "make plots puts the kept figures into the page"


def test_all_that_is_kept_is_on_the_page() -> None:
    marks = re.findall(r"<!-- table: (\S+) -->", page.PAGE.read_text())
    kept = {path.stem for path in FOLDER.glob("*/*.json*") if ".partial" not in path.name}
    assert kept <= set(marks)
    assert len(marks) == len(set(marks))


def test_a_mark_that_nothing_has_is_no_table() -> None:
    with pytest.raises(ValueError):
        page.with_tables("<!-- table: decod -->\n<!-- end of table -->")


def test_the_page_is_made_of_what_was_kept_last(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for module in (record, page):
        monkeypatch.setattr(module, "FOLDER", tmp_path)
    for steps in ([], STEPS):
        notes(monkeypatch, keep=True).table(DECODE, steps)
    (kept,) = records("decode")
    assert kept.machine == MACHINE
    assert kept.rows_of(DECODE) == STEPS
    made = page.with_tables("<!-- table: decode -->\nold<!-- end of table -->")
    assert "*one small core*" in made
    assert "`.venv/bin/python benchmarks/engine.py --threads 1`" in made
    assert "| 1 | 1 x 128 | 12.0 | 10.0 | **1.20** |  |" in made
    assert "| **1.50** | 9.0 / 11.0 |" in made
    (tmp_path / "decode.png").touch()
    reached = "at most 1.30 | **1.20 to 1.50**, met in 1 of 2 | `benchmarks/engine.py` |"
    assert f"| A decode step by its floor | {reached}" in page.goals()
    assert page.goals().startswith("|  | Goal | small-1-core | By |\n")
    assert "Not measured" in page.with_tables("<!-- table: prefill -->\n<!-- end of table -->")


def test_what_is_not_to_be_kept_is_only_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(record, "FOLDER", tmp_path)
    notes(monkeypatch, keep=False).table(DECODE, STEPS)
    assert "1 x 128" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_a_goal_is_only_of_those_it_means() -> None:
    short, long = PREFILL.goals
    rows = [Prefill(1, 1, 512, 100.0, 92.0), Prefill(1, 1, 2000, 100.0, 70.0)]
    assert short.reached(rows) == "92%"
    assert long.reached(rows) == "**70%**"
    assert long.reached(rows[:1]) == ""


def test_what_kv_in_small_frames_reaches_is_held_against_no_goal_by_pinned_memory() -> None:
    limits = {"limit_out": 50.0, "limit_in": 50.0}
    rows = [
        GpuCopies(kib, 1, is_staged, out=rate, into=rate, **limits)
        for kib, is_staged, rate in [(2048, True, 12.0), (8192, True, 40.0), (2048, False, 5.0)]
    ]
    pinned, messages = GPU_COPIES.goals
    assert pinned.reached(rows) == "80%"
    assert messages.reached(rows) == "**10%**"


@pytest.mark.parametrize(
    "figures, shown",
    [([1.0], "1.00"), ([1.0, 1.4, 1.2], "1.20 (1.00 to 1.40), met in 2 of 3"), ([1.4], "**1.40**")],
)
def test_of_rounds_the_median_counts(figures: list[float], shown: str) -> None:
    assert Bound("A ratio", 1.3).of_rounds(figures) == shown


def test_the_bound_itself_is_reached() -> None:
    assert Bound("A rate", 350, ".0f", is_least=True).of_cases([350.0, 400.0]) == "350 to 400"
    assert Bound("A wait", 45, ".0f").of_cases([45.0]) == "45"
