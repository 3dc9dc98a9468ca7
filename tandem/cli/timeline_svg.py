"""The timeline as an image: prefill on top, decode below, and the KV on its way down between."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from tandem.bench.report.svg_plot import nice_step
from tandem.cli.amounts import format_bytes, format_seconds
from tandem.core.pipeline import Lane, exposed_ns
from tandem.core.reports import Span, SpanKind, step_kind
from tandem.core.worker import WorkerRole

# Pixels.
WIDTH = 1200
GUTTER = 110
AXIS = 24
LANE = 28
GAP = 6
BAND = 70
LEGEND = 26
TICK = 120
MIN_LABEL = 26

STYLE = """\
svg{font:11px system-ui,"DejaVu Sans",sans-serif;background:#fff}
text{fill:#17202c}.dim{fill:#5b6878}.in{fill:#fff;text-anchor:middle}.mid{text-anchor:middle}
.grid{stroke:#dce2ea}.prefill{fill:#2f80d8}.decode{fill:#17996a}.both{fill:#6f63d9}
.transfer{stroke:#c98a00;stroke-width:2}.exposed{stroke:#d63c3c;stroke-width:2}
@media(prefers-color-scheme:dark){svg{background:#0d131c}text{fill:#e4eaf2}.dim{fill:#91a0b4}
.grid{stroke:#273345}.prefill{fill:#4aa8ff}.decode{fill:#3ecf8e}.both{fill:#9a8cff}.in{fill:#0d131c}
.transfer{stroke:#f0b429}.exposed{stroke:#ff6b6b}}"""


@dataclass(frozen=True, slots=True)
class _Frame:
    """Where things are. Times are nanoseconds on the clock that all lanes share."""

    start_ns: int
    end_ns: int
    tops: Mapping[str, int]
    band_top: int
    band_bottom: int
    height: int

    def x(self, at_ns: float) -> float:
        share = (at_ns - self.start_ns) / max(1, self.end_ns - self.start_ns)
        return round(GUTTER + share * (WIDTH - GUTTER - GAP), 1)


def timeline_svg(lanes: Sequence[Lane]) -> str:
    """All steps and transfers of lanes, prefill workers first, of which at least one has a step."""
    frame = _frame(lanes)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {frame.height}"'
        f' width="{WIDTH}" height="{frame.height}">',
        f"<style>{STYLE}</style>",
        *_axis(frame),
        *(part for lane in lanes for part in _steps(lane, frame)),
        *(part for lane in lanes for part in _transfers(lane, frame)),
        *_legend(frame),
        "</svg>\n",
    ]
    return "\n".join(parts)


def _frame(lanes: Sequence[Lane]) -> _Frame:
    drawn = [
        (span.start_ns + lane.clock_offset_ns, span.end_ns + lane.clock_offset_ns)
        for lane in lanes
        for span in lane.spans
        if span.kind in (SpanKind.STEP, SpanKind.TRANSFER)
    ]
    num_prefill = sum(lane.role is WorkerRole.PREFILL for lane in lanes)
    tops: dict[str, int] = {}
    y = AXIS
    for number, lane in enumerate(lanes):
        if number == num_prefill and num_prefill:
            y += BAND
        tops[lane.worker_id] = y
        y += LANE + GAP
    band_top = AXIS + num_prefill * (LANE + GAP) - GAP
    return _Frame(
        start_ns=min(start for start, _ in drawn),
        end_ns=max(end for _, end in drawn),
        tops=tops,
        band_top=band_top,
        band_bottom=band_top + BAND + GAP,
        height=y + LEGEND,
    )


def _axis(frame: _Frame) -> Iterator[str]:
    span_ns = max(1, frame.end_ns - frame.start_ns)
    tick_ns = nice_step(span_ns * TICK / (WIDTH - GUTTER))
    for number in range(int(span_ns / tick_ns) + 1):
        x = frame.x(frame.start_ns + number * tick_ns)
        bottom = frame.height - LEGEND
        yield f'<path class="grid" d="M{x} {AXIS - 6}V{bottom}"/>'
        label = format_seconds(number * tick_ns / 1e9) if number else "0"
        yield f'<text class="dim mid" x="{x}" y="{AXIS - 11}">{label}</text>'


def _steps(lane: Lane, frame: _Frame) -> Iterator[str]:
    top = frame.tops[lane.worker_id]
    yield f'<text x="4" y="{top + LANE / 2 + 4}">{escape(lane.worker_id)}</text>'
    steps = lane.of_kind(SpanKind.STEP)
    most = max((step.num_seqs for step in steps), default=1)
    for step in steps:
        x, right = (frame.x(at + lane.clock_offset_ns) for at in (step.start_ns, step.end_ns))
        width = round(max(0.5, right - x - 0.5), 1)
        kind = step_kind(step.num_tokens, step.num_prefill_tokens)
        opacity = round(0.45 + 0.55 * step.num_seqs / max(1, most), 2)
        yield (
            f'<rect class="{kind}" x="{x}" y="{top}" width="{width}"'
            f' height="{LANE}" rx="2" opacity="{opacity}"><title>{_describe(step)}</title></rect>'
        )
        if width >= MIN_LABEL:
            label = step.num_prefill_tokens or f"x{step.num_seqs}"
            middle = round(x + width / 2, 1)
            yield f'<text class="in" x="{middle}" y="{top + LANE / 2 + 4}">{label}</text>'


def _transfers(lane: Lane, frame: _Frame) -> Iterator[str]:
    """Down as time goes on; what nothing hid is the last part of the way."""
    top, bottom = frame.band_top, frame.band_bottom
    for span in lane.of_kind(SpanKind.TRANSFER):
        x, right = (frame.x(at + lane.clock_offset_ns) for at in (span.start_ns, span.end_ns))
        exposed = exposed_ns(span) / max(1, span.end_ns - span.start_ns)
        turn_x = round(right - exposed * (right - x), 1)
        turn_y = round(bottom - exposed * (bottom - top), 1)
        size = format_bytes(span.num_bytes)
        title = f"KV transfer, {size}, {1 - exposed:.0%} hidden behind computing"
        yield (
            f'<g><title>{title}</title><path class="transfer" d="M{x} {top}L{turn_x} {turn_y}"/>'
            f'<path class="exposed" d="M{turn_x} {turn_y}L{right} {bottom}"/></g>'
        )


def _legend(frame: _Frame) -> Iterator[str]:
    y = frame.height - 9
    x = GUTTER
    for name, css, shape in (
        ("prefill, tokens", "prefill", "rect"),
        ("decode, batch size", "decode", "rect"),
        ("both in one step", "both", "rect"),
        ("KV transfer", "transfer", "path"),
        ("not hidden behind computing", "exposed", "path"),
    ):
        if shape == "rect":
            yield f'<rect class="{css}" x="{x}" y="{y - 9}" width="10" height="10" rx="2"/>'
        else:
            yield f'<path class="{css}" d="M{x} {y - 9}L{x + 10} {y + 1}"/>'
        yield f'<text class="dim" x="{x + 15}" y="{y}">{name}</text>'
        x += 34 + 6 * len(name)


def _describe(step: Span) -> str:
    seconds = format_seconds(step.duration_s)
    return f"step {step.number}: {step.num_seqs} sequences, {step.num_tokens} tokens, {seconds}"
