"""The timeline in files."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tandem.cli.timeline import save_timeline
from tandem.cli.timeline_svg import timeline_svg
from tandem.cli.trace_events import trace_events
from tandem.core.errors import ConfigError
from tandem.core.pipeline import Lane
from tandem.core.reports import Span, SpanKind
from tandem.core.worker import WorkerRole

SVG = "{http://www.w3.org/2000/svg}"
PREFILL = Lane(
    "prefill-0",
    WorkerRole.PREFILL,
    (
        Span(SpanKind.STEP, 1000, 101_000, 1, num_seqs=2, num_tokens=64, num_prefill_tokens=64),
        Span(
            SpanKind.TRANSFER, 51_000, 151_000, sequence_id=5, num_bytes=10, compute_end_ns=101_000
        ),
        Span(SpanKind.FRAME_SENT, 61_000, 71_000, sequence_id=5, num_bytes=10),
    ),
)
# Its clock is 1 ms behind.
DECODE = Lane(
    "decode-0",
    WorkerRole.DECODE,
    (
        Span(SpanKind.FRAME_RECEIVED, -939_000, -929_000, sequence_id=5, num_bytes=10),
        Span(SpanKind.STEP, -849_000, -799_000, 1, num_seqs=1, num_tokens=1),
    ),
    clock_offset_ns=1_000_000,
)
LANES = [PREFILL, DECODE]


def test_steps_are_slices_on_one_clock() -> None:
    events = trace_events(LANES)["traceEvents"]
    steps = [event for event in events if event["ph"] == "X"]
    assert [(step["pid"], step["name"], step["ts"], step["dur"]) for step in steps] == [
        (1, "prefill 64 tokens x2", 0.0, 100.0),
        (2, "decode x1", 150.0, 50.0),
    ]
    names = {event["args"]["name"] for event in events if event["name"] == "process_name"}
    assert names == {"prefill-0", "decode-0"}


def test_what_overlaps_is_asynchronous() -> None:
    events = [event for event in trace_events(LANES)["traceEvents"] if event["ph"] in "be"]
    begins = {event["id"]: event for event in events if event["ph"] == "b"}
    ends = {event["id"]: event for event in events if event["ph"] == "e"}
    assert len(begins) == 3 and begins.keys() == ends.keys()
    (transfer,) = (event for event in begins.values() if event["name"] == "KV transfers")
    assert transfer["ts"] == 50.0 and ends[transfer["id"]]["ts"] == 150.0
    assert transfer["args"] == {"sequence": 5, "bytes": 10, "not hidden, us": 50.0}


def test_a_step_of_both_says_so() -> None:
    both = Span(SpanKind.STEP, 0, 1, num_seqs=3, num_tokens=10, num_prefill_tokens=8)
    events = trace_events([Lane("d", WorkerRole.DECODE, (both,))])["traceEvents"]
    assert events[-1]["name"] == "both 8 tokens x3"


def test_an_image_has_all_steps_and_transfers() -> None:
    root = ElementTree.fromstring(timeline_svg(LANES))
    steps = [rect for rect in root.iter(f"{SVG}rect") if rect.find(f"{SVG}title") is not None]
    assert [rect.get("class") for rect in steps] == ["prefill", "decode"]
    prefill, decode = steps
    assert float(prefill.get("y", 0)) < float(decode.get("y", 0))
    # The decode step begins where the transfer ends: the lanes share a clock.
    transfer, exposed = (path.get("d", "") for path in root.findall(f"{SVG}g/{SVG}path"))
    assert exposed.endswith(f"L{decode.get('x')} {decode.get('y')}")
    assert transfer.partition("L")[2] == exposed.partition("L")[0].removeprefix("M")


def test_names_in_an_image_are_text() -> None:
    lane = Lane("<a&b>", WorkerRole.DECODE, DECODE.spans)
    root = ElementTree.fromstring(timeline_svg([lane]))
    assert "<a&b>" in [text.text for text in root.iter(f"{SVG}text")]


def test_the_ending_says_what_is_written(tmp_path: Path) -> None:
    save_timeline(LANES, tmp_path / "x.json")
    assert json.loads((tmp_path / "x.json").read_bytes())["displayTimeUnit"] == "ms"
    save_timeline(LANES, tmp_path / "x.svg")
    assert (tmp_path / "x.svg").read_text().startswith("<svg")
    with pytest.raises(ConfigError, match=r"\.json or \.svg"):
        save_timeline(LANES, tmp_path / "x.png")
    with pytest.raises(ConfigError, match="cannot write"):
        save_timeline(LANES, tmp_path / "none" / "x.svg")
