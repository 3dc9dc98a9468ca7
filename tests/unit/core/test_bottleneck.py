"""What the page says holds the whole up."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tandem.core.bottleneck import Load, RoleLoad, find_bottleneck

PREFILL = RoleLoad(num_open=2, busy_share=0.4, num_sequences=2, num_places=32, used_share=0.1)
DECODE = RoleLoad(num_open=2, busy_share=0.6, num_sequences=8, num_places=32, used_share=0.4)
LOAD = Load(PREFILL, DECODE, num_in_flight=10)


@pytest.mark.parametrize(
    ("load", "where", "text"),
    [
        (replace(LOAD, missing="decode"), "workers", "no decode worker serves"),
        (Load(PREFILL, DECODE), "none", "nothing is asked for"),
        (LOAD, "clients", "room for more: prefill 40% busy, decode 60% busy"),
        (
            replace(LOAD, num_queued=3, decode=replace(DECODE, used_share=0.97)),
            "decode",
            "KV pool full, 3 prompts wait",
        ),
        (
            replace(LOAD, num_queued=1, decode=replace(DECODE, num_sequences=32)),
            "decode",
            "all 32 places taken, 1 prompt waits",
        ),
        (
            replace(LOAD, num_queued=12, prefill=replace(PREFILL, busy_share=0.98)),
            "prefill",
            "98% busy, 12 prompts wait",
        ),
        (
            replace(LOAD, sending_share=0.8, exposed_share=0.4),
            "transfers",
            "on their way 80% of the time, 40% of it not hidden",
        ),
        (replace(LOAD, decode=replace(DECODE, busy_share=0.95)), "decode", "95% busy"),
        (
            replace(LOAD, num_queued=2, decode=replace(DECODE, busy_share=0.95)),
            "decode",
            "95% busy, 2 prompts wait",
        ),
    ],
)
def test_it_is_named(load: Load, where: str, text: str) -> None:
    assert find_bottleneck(load) == (where, text)


def test_few_transfers_hold_nobody_up() -> None:
    assert find_bottleneck(replace(LOAD, sending_share=0.1, exposed_share=1.0)).where == "clients"


def test_a_full_pool_is_no_matter_while_nobody_waits() -> None:
    full = replace(LOAD, decode=replace(DECODE, used_share=1.0))
    assert find_bottleneck(full).where == "clients"


def test_colocated_workers_are_of_one_role() -> None:
    load = replace(LOAD, prefill=RoleLoad())
    assert find_bottleneck(load).text == "room for more: decode 60% busy"
    # Without places there is none that is taken.
    assert find_bottleneck(replace(load, num_queued=1)).where == "clients"
