"""What `tandem top` keeps of the feed."""

from __future__ import annotations

import orjson
import pytest
from top_ticks import NOW_US, SECOND_US, history_of, step, tick, tick_json, totals, transfer, worker

from tandem.cli.top.history import KEPT_US, Step, Transfer, within
from tandem.cli.top.tick import read_tick
from tandem.core.errors import Mismatch


def test_rows_become_spans_and_others_are_left_out() -> None:
    rows = [step(10, 5, 2, 3, 1), [3, 10, 5, 7], transfer(20, 10, 4), [99, 1, 1]]
    lane = history_of(tick(worker("prefill-0"), lanes={"prefill-0": rows})).lanes["prefill-0"]
    assert (lane.role, [*lane.steps], [*lane.transfers]) == ("prefill", [], [])
    rows = [[kind, NOW_US + start, *rest] for kind, start, *rest in rows]
    lane = history_of(tick(worker("prefill-0"), lanes={"prefill-0": rows})).lanes["prefill-0"]
    assert [*lane.steps] == [Step(NOW_US + 10, NOW_US + 15, 2, 3, 1)]
    assert [*lane.transfers] == [Transfer(NOW_US + 20, NOW_US + 30, 4)]


def test_what_is_old_is_forgotten_and_lanes_of_the_gone_with_it() -> None:
    first = tick(worker("decode-0"), lanes={"decode-0": [step(NOW_US, 5, 1, 1, 0)]})
    history = history_of(first, tick())
    assert "decode-0" in history.lanes
    history.take(tick(now=NOW_US + KEPT_US + 6))
    assert not history.lanes


def test_rates_are_of_the_last_ticks() -> None:
    ticks = [
        tick(now=NOW_US + number * SECOND_US, totals=totals(generated_tokens=100 * number))
        for number in range(20)
    ]
    samples = history_of(*ticks).samples
    assert samples[0].generated is None
    assert [sample.generated for sample in samples][1:] == [100.0] * 19


def test_prefix_hits_are_of_the_prompts_since() -> None:
    counts = [(0, 0), (100, 0), (100, 0), (200, 50)]
    ticks = [tick(totals=totals(prompt_tokens=all_, cached_tokens=hits)) for all_, hits in counts]
    assert [each.prefix_hits for each in history_of(*ticks).samples] == [None, 0.0, 0.0, 0.25]


def test_only_decode_pools_are_charted() -> None:
    workers = [worker("prefill-0", used_blocks=100), worker("decode-0"), worker("decode-1")]
    assert history_of(tick(*workers)).samples[-1].pool == 0.25
    assert history_of(tick()).samples[-1].pool is None


def test_a_gateway_that_is_another_is_begun_with_anew() -> None:
    history = history_of(tick(worker("decode-0")))
    history.reset()
    assert (history.tick, history.lanes, [*history.samples]) == (None, {}, [])


def test_within_is_what_is_seen() -> None:
    spans = [Step(start, start + 10, 1, 1, 0) for start in (0, 20, 40, 60)]
    assert [each.start_us for each in within(spans, 25, 45)] == [40, 20]
    assert within(spans, 100, 200) == within(spans, -5, -1) == []


@pytest.mark.parametrize(
    "data",
    [
        "",
        "[]",
        "{}",
        orjson.dumps(tick_json(queue=None)).decode(),
        orjson.dumps(tick_json({"id": "d"})).decode(),
    ],
)
def test_a_feed_of_another_version_is_said_to_be_one(data: str) -> None:
    with pytest.raises(Mismatch, match="another version"):
        read_tick(data)
