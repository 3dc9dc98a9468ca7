"""A process whose stderr is closed."""

from __future__ import annotations

import sys

import pytest

from tandem.process.closed_stderr import open_stderr


def test_what_is_no_text_goes_nowhere_either(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Python's own has it: tandem up names its folder of logs, whose name may be any bytes."""
    monkeypatch.setattr("sys.stderr", None)
    open_stderr()
    with sys.stderr:
        print("caf\udce9", file=sys.stderr, flush=True)


def test_one_that_is_open_stays() -> None:
    before = sys.stderr
    open_stderr()
    assert sys.stderr is before
