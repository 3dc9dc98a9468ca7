"""`benchmarks/compare.py` replaces a record by a whole one, or not at all."""

from __future__ import annotations

import asyncio
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import compare
import pytest

OLD = "what was published\n"
End = BaseException | None


@pytest.fixture
def record(tmp_path: Path) -> Path:
    path = tmp_path / "peers.jsonl"
    path.write_text(OLD)
    return path


@pytest.fixture
def rounds_end(monkeypatch: pytest.MonkeyPatch) -> Callable[[End, str], None]:
    """Let rounds write something, and end like this."""

    def ends(how: End, line: str) -> None:
        async def one(comparison: compare.Comparison, *_: object) -> None:
            if line:
                comparison._write(line)
            if how:
                raise how

        monkeypatch.setattr(compare.Comparison, "round", one)

    monkeypatch.setattr(compare, "find_arms", lambda *_: ["an arm"])
    monkeypatch.setattr(compare, "cancel_when_told_to_stop", lambda: None)
    return ends


def flags(record: Path, *, append: bool = False) -> Namespace:
    run = {"rounds": 2, "seed": 0, "scale": 1.0, "workloads": ["A"], "arms": [], "int4": False}
    return Namespace(out=record, append=append, peers=record.parent, **run)


def test_an_interrupted_comparison_leaves_the_record_alone(
    record: Path, rounds_end: Callable[[End, str], None]
) -> None:
    rounds_end(asyncio.CancelledError(), "one")
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(compare.main(flags(record)))
    assert record.read_text() == OLD
    assert (record.parent / "peers.partial.jsonl").read_text() == "one\n"


def test_so_does_one_that_measured_nothing(
    record: Path, rounds_end: Callable[[End, str], None]
) -> None:
    rounds_end(None, "")
    with pytest.raises(SystemExit):
        asyncio.run(compare.main(flags(record)))
    assert record.read_text() == OLD


@pytest.mark.parametrize(("append", "before"), [(False, ""), (True, OLD)])
def test_a_whole_comparison_is_the_record(
    record: Path, rounds_end: Callable[[End, str], None], append: bool, before: str
) -> None:
    rounds_end(None, "one")
    asyncio.run(compare.main(flags(record, append=append)))
    assert record.read_text() == f"{before}one\none\n"
    assert list(record.parent.iterdir()) == [record]
