from pathlib import Path

import pytest

from tandem.cli import timeline
from tandem.cli.amounts import format_bytes, format_seconds
from tandem.cli.flags import GatewayFlags
from tandem.cli.gantt import coverage, draw
from tandem.cli.timeline import parse_window_ms
from tandem.core.errors import ConfigError, NotFound
from tandem.core.pipeline import Lane
from tandem.core.reports import Span, SpanKind
from tandem.core.worker import WorkerRole
from tandem.v1.inference_pb2 import GetTimelineRequest


@pytest.mark.parametrize(("text", "expected"), [("500ms", 500), ("30s", 30_000), ("5m", 300_000)])
def test_windows_have_units(text: str, expected: int) -> None:
    assert parse_window_ms(text) == expected


@pytest.mark.parametrize("text", ["", "30", "0s", "-1s", "1h", "1.5s", "s"])
def test_an_unknown_window_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="write 500ms, 30s or 5m"):
        parse_window_ms(text)


def test_a_window_is_no_longer_than_the_wire_takes() -> None:
    text = "71582m"
    assert GetTimelineRequest(window_ms=parse_window_ms(text)).window_ms == 71_582 * 60_000
    with pytest.raises(ConfigError, match="999999m is too long: 71582m at the most") as caught:
        parse_window_ms("999999m")
    assert caught.value.param == "window"


def show(lanes: list[Lane], monkeypatch: pytest.MonkeyPatch, save: Path | None = None) -> None:
    monkeypatch.setattr(timeline, "fetch_lanes", lambda *_: lanes)
    timeline.show_timeline(GatewayFlags(), "30s", save)


def test_what_is_not_written_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    idle = [Lane("decode-0", WorkerRole.DECODE, ())]
    show(idle, monkeypatch)
    assert capsys.readouterr().out == "nothing ran within the last 30s\n"
    path = tmp_path / "x.json"
    with pytest.raises(NotFound, match=f"nothing ran .*: {path} was not written"):
        show(idle, monkeypatch, path)
    assert not path.exists()
    show([Lane("decode-0", WorkerRole.DECODE, (Span(SpanKind.STEP, 0, 9),))], monkeypatch, path)
    assert path.exists()


def test_a_workers_name_is_no_markup(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lane = Lane("[/red]", WorkerRole.DECODE, (Span(SpanKind.STEP, 0, 9),))
    show([lane], monkeypatch)
    assert capsys.readouterr().out.count("[/red]") == 2


def test_a_narrow_terminal_cuts_no_number(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "24")
    steps = tuple(Span(SpanKind.STEP, at, at + 1_500_000) for at in range(0, 90_000_000, 2_000_000))
    show([Lane("decode-0", WorkerRole.DECODE, steps)], monkeypatch)
    said = capsys.readouterr().out
    assert "decode-0   75%     45   500 us   500 us\n" in said
    assert "…" not in said


def test_the_legend_of_all_fits_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    prefill = (
        Span(SpanKind.STEP, 0, 90, num_tokens=9, num_prefill_tokens=9),
        Span(SpanKind.TRANSFER, 50, 150, compute_end_ns=100),
    )
    decode = (
        Span(SpanKind.STEP, 100, 200, num_tokens=9, num_prefill_tokens=8),
        Span(SpanKind.STEP, 200, 300, num_tokens=1),
    )
    lanes = [
        Lane("prefill-0", WorkerRole.PREFILL, prefill),
        Lane("decode-0", WorkerRole.DECODE, decode),
    ]
    show(lanes, monkeypatch)
    (legend,) = [line for line in capsys.readouterr().out.splitlines() if "█ prefill" in line]
    assert legend.split()[1::2] == ["prefill", "decode", "both", "KV", "╳", "hidden"]


def test_coverage_is_the_share_of_each_cell() -> None:
    assert coverage([(0, 10), (15, 40)], 0, 40, 4) == pytest.approx([1.0, 0.5, 1.0, 1.0])


def test_an_instant_is_seen_even_at_the_end() -> None:
    assert [share > 0 for share in coverage([(0, 0), (40, 40)], 0, 40, 2)] == [True, True]
    assert coverage([(5, 5)], 5, 5, 3)[0] > 0


def test_steps_and_transfers_have_lines_of_their_own() -> None:
    prefill = (
        Span(SpanKind.STEP, 0, 100),
        Span(SpanKind.TRANSFER, 50, 100, compute_end_ns=100),
    )
    lanes = [
        Lane("prefill-0", WorkerRole.PREFILL, prefill),
        Lane("decode-0", WorkerRole.DECODE, (Span(SpanKind.STEP, 100, 200),)),
    ]
    lines = draw(lanes, 30).plain.splitlines()
    assert lines[:3] == [
        "prefill-0 ██████████          ",
        "               █████          ",
        "decode-0            ██████████",
    ]


def test_amounts_are_short() -> None:
    assert [format_bytes(each) for each in (0, 999, 1500, 2.5e6, 3e12)] == [
        "0 B",
        "999 B",
        "1.5 kB",
        "2.5 MB",
        "3 TB",
    ]
    assert [format_seconds(each) for each in (0, 1.5e-6, 0.0123, 12.34)] == [
        "0 us",
        "1.5 us",
        "12.3 ms",
        "12.3 s",
    ]
