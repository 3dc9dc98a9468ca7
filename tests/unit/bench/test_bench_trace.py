"""Traces, as they are read and as they are asked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.bench.trace import BLOCK, MadePrompts, Trace, TracedRequest, read_trace
from tandem.core.errors import ConfigError

IDS = range(1000, 2000)
MADE = MadePrompts(IDS, "0")


def written(folder: Path, lines: Sequence[Any]) -> Path:
    file = folder / "trace.jsonl"
    file.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return file


def mooncake(at_ms: float, num_prompt: int, num_output: int, *hash_ids: int) -> dict[str, Any]:
    return {
        "timestamp": at_ms,
        "input_length": num_prompt,
        "output_length": num_output,
        "hash_ids": list(hash_ids),
    }


def test_mooncakes_form_is_read(tmp_path: Path) -> None:
    trace = read_trace(written(tmp_path, [mooncake(3000, 700, 5, 0, 2), mooncake(1000, 600, 7, 0)]))
    assert trace.is_timed
    assert list(trace.arrivals()) == [0.0, 2.0]
    assert list(trace.arrivals(speed=4.0)) == [0.0, 0.5]
    late, early = MADE.prompt(trace.requests[1]), MADE.prompt(trace.requests[0])
    assert (len(early.token_ids), early.num_output) == (600, 7)
    # Both begin with block 0; what follows is each one's own.
    assert late.token_ids[:BLOCK] == early.token_ids[:BLOCK]
    assert late.token_ids[BLOCK:600] != early.token_ids[BLOCK:600]


def test_prompts_are_read(tmp_path: Path) -> None:
    lines = [{"prompt": "Say it.", "max_tokens": 4}, {"prompt": [5, 6], "output_length": 3}]
    trace = read_trace(written(tmp_path, lines))
    assert not trace.is_timed
    text, ids = (MADE.prompt(each) for each in trace.requests)
    assert (text.text, text.token_ids, text.num_output) == ("Say it.", (), 4)
    assert (ids.text, ids.token_ids, ids.num_output) == ("", (5, 6), 3)


def test_only_as_many_are_read_as_are_wanted(tmp_path: Path) -> None:
    file = written(tmp_path, [mooncake(each, 5, 5) for each in reversed(range(9))])
    # The first by their times, wherever they stand.
    assert [each.at_s for each in read_trace(file, limit=3).requests] == [0.0, 0.001, 0.002]


def test_requests_without_hashes_share_nothing(tmp_path: Path) -> None:
    trace = read_trace(written(tmp_path, [mooncake(0, 50, 5), mooncake(0, 50, 5)]))
    one, other = (MADE.prompt(each).token_ids for each in trace.requests)
    assert one[:4] != other[:4]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "trace.jsonl:2"),
        ("[]", "no JSON object"),
        ('{"input_length": 5}', "output_length is missing"),
        ('{"input_length": 0, "output_length": 5}', "input_length is from 1"),
        ('{"input_length": 5, "output_length": 1e9}', "output_length is from 1"),
        ('{"input_length": "5", "output_length": 5}', "input_length is from 1"),
        ('{"output_length": 5, "prompt": 7}', "a prompt is"),
        ('{"output_length": 5, "prompt": [-1]}', "a prompt is"),
        ('{"input_length": 5, "output_length": 5, "hash_ids": ["a"]}', "hash_ids"),
        ('{"input_length": 5, "output_length": 5, "timestamp": "now"}', "milliseconds"),
        ('{"input_length": 5, "output_length": 5}', "or none"),
    ],
)
def test_what_is_no_trace_is_told_with_its_line(tmp_path: Path, line: str, words: str) -> None:
    file = tmp_path / "trace.jsonl"
    file.write_text(json.dumps(mooncake(0, 5, 5)) + "\n" + line + "\n")
    with pytest.raises(ConfigError, match=words):
        read_trace(file)


def test_an_empty_or_missing_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n\n")
    for name in ("empty", "missing"):
        with pytest.raises(ConfigError, match=name):
            read_trace(tmp_path / name)


REQUESTS = st.builds(
    lambda num_blocks, part, line, ids: TracedRequest(
        line, 0.0, 4, None, max(1, (num_blocks - 1) * BLOCK + part), tuple(ids[:num_blocks])
    ),
    st.integers(1, 4),
    st.integers(1, BLOCK),
    st.integers(1, 99),
    st.lists(st.integers(0, 3), min_size=4, max_size=4),
)


@given(REQUESTS, REQUESTS, st.sampled_from([1.0, 0.25, 0.03]))
def test_prompts_share_exactly_what_their_hashes_share(
    one: TracedRequest, other: TracedRequest, scale: float
) -> None:
    made = MadePrompts(IDS, "0", scale)
    prompts = [made.prompt(each).token_ids for each in (one, other)]
    for request, tokens in zip((one, other), prompts, strict=True):
        assert len(tokens) == max(1, round(request.num_prompt * scale))
    shared = 0
    for mine, theirs in zip(one.hash_ids, other.hash_ids, strict=False):
        if mine != theirs:
            break
        shared += 1
    block = max(1, round(BLOCK * scale))
    length = min(shared * block, *map(len, prompts))
    assert prompts[0][:length] == prompts[1][:length]


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=20), st.floats(0.1, 50))
def test_a_faster_trace_is_the_same_trace(times_s: list[float], speed: float) -> None:
    trace = Trace(tuple(TracedRequest(1, at, 1) for at in sorted(times_s)))
    whole, fast = list(trace.arrivals()), list(trace.arrivals(speed))
    assert whole[0] == fast[0] == 0
    assert [each * speed for each in fast] == pytest.approx(whole)
