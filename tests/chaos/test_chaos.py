"""A few tries of what `make chaos` does at length: real processes, gRPC, every token checked."""

from __future__ import annotations

from pathlib import Path

import pytest
from catalogue import BY_NAME, play


@pytest.mark.parametrize(
    ("name", "tries"),
    [
        ("SIGKILL prefill, at 0 to 99% of a transfer", 1),
        ("SIGKILL decode, at the first to the last token", 1),
        ("5% of transfers fail, 128 at a time", 150),
    ],
)
async def test_nothing_is_lost(name: str, tries: int, tmp_path: Path) -> None:
    scenario = BY_NAME[name]
    outcome = await play(scenario, tries, tmp_path, seed=1, told=lambda _: None)
    assert outcome.faults > 0
    assert scenario.is_clean(outcome), outcome


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["SIGSTOP decode for 10 s", "Deadline in each phase"])
async def test_nothing_is_lost_of_the_rest(name: str, tmp_path: Path) -> None:
    scenario = BY_NAME[name]
    outcome = await play(scenario, 1, tmp_path, seed=1, told=lambda _: None)
    assert scenario.is_clean(outcome), outcome
