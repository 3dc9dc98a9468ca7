"""What `tandem top` draws, for any size."""

from __future__ import annotations

from io import StringIO

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from top_ticks import NOW_US, SECOND_US, history_of, step, tick, totals, transfer, worker

from tandem.cli.top.history import History
from tandem.cli.top.lanes import axis
from tandem.cli.top.panels import resampled, spark
from tandem.cli.top.picture import FIXED_LINES, Size, picture
from tandem.cli.top.view import LAG_US, Order, View, Window

SIZE = Size(80, 24)
PRESENT_US = NOW_US - LAG_US
# With a worker of each role.
LEAST_HEIGHT = FIXED_LINES + 3


def drawn(
    history: History, view: View | None = None, size: Size = SIZE, *, status: str = ""
) -> list[str]:
    console = Console(width=size.width, file=StringIO(), color_system=None)
    shown = picture(history, view or View(), status, size, has_keys=size.height is not None)
    with console.capture() as capture:
        console.print(shown)
    return [line.rstrip() for line in capture.get().splitlines()]


def busy() -> History:
    """A batch of two prompts of 600 tokens, whose KV is on its way for a second, a quarter of it
    when nothing is computed any more; and steps of a second each with more and more sequences."""
    second = SECOND_US
    lanes = {
        "prefill-0": [
            step(PRESENT_US - 4 * second, 2 * second, 2, 600, 600),
            transfer(PRESENT_US - 3 * second, second, second // 4),
        ],
        "decode-0": [
            step(PRESENT_US - (4 - number) * second, second, 2 * number + 2, 2, 0)
            for number in range(4)
        ],
    }
    workers = [worker("prefill-0"), worker("decode-0", needed=True, busy=1.0, used_blocks=50)]
    ticks = [
        tick(*workers, now=NOW_US - second),
        tick(
            *workers,
            lanes=lanes,
            queue=[3, 1200],
            requests={"counts": {"queued": 3, "prefill": 1, "transfer": 0, "decode": 90}},
            totals=totals(generated_tokens=1234, finished=7, kv_bytes=2_500_000, refused=2),
            first_token_s=[0.0123, 0.5],
            between_tokens_s=[0.004, None],
            pipeline={"efficiency": 0.75, "hidden": 0.98},
            bottleneck={"where": "decode", "text": "95% busy, 3 prompts wait"},
        ),
    ]
    return history_of(*ticks)


def test_it_says_what_the_page_says() -> None:
    lines = drawn(busy())
    assert len(lines) <= 24
    assert lines[0] == f"{'Tandem  mock, 1p1d':<76}live"
    assert lines[2].split() == [
        "1234",
        "tok/s",
        "12.3",
        "ms",
        "/",
        "500",
        "ms",
        "4",
        "ms",
        "/",
        "–",
        "98%",
        "75%",
    ]
    assert lines[3] == "bottleneck Decode: 95% busy, 3 prompts wait"
    text = "\n".join(lines)
    assert "waiting 3" in text and "decode 90" in text
    assert "7 done · 2.5 MB of KV moved · 2 refused · 1200 prompt tokens wait" in text
    (row,) = [line for line in lines if line.startswith("● decode-0")]
    assert row.split() == [
        "●",
        "decode-0",
        "decode",
        "serving",
        "100%",
        "2/256",
        "████",
        "50%",
        "–",
    ]
    assert lines[-1].startswith("q quit")


def test_lanes_show_steps_transfers_and_batches() -> None:
    lines = drawn(busy(), size=Size(79, 30))
    prefill = next(place for place, line in enumerate(lines) if line.startswith("prefill-0"))
    # 60 cells for 4 s.
    assert lines[prefill] == "prefill-0    " + "█" * 12 + "600 ×2" + "█" * 12 + " " * 30 + "  50%"
    assert lines[prefill + 1] == "  KV         " + " " * 15 + "█" * 11 + "╳" * 4
    batches = "".join("█" * 6 + f"×{number}" + "█" * 7 for number in (2, 4, 6, 8))
    assert lines[prefill + 2] == f"decode-0     {batches} 100%"
    bars = "▂" * 15 + "▄" * 15 + "▆" * 15 + "█" * 15
    assert lines[prefill + 3] == f"  batch      {bars} ×8"
    assert lines[prefill + 4].split() == ["╵-4", "s", "╵-3", "s", "╵-2", "s", "╵-1", "s", "now"]


def test_what_stands_still_says_so() -> None:
    view = View(still_us=PRESENT_US - SECOND_US)
    text = "\n".join(drawn(busy(), view))
    assert "paused" in text and " now" not in text
    assert "×6" in text and "×8" not in text


def test_a_broken_connection_is_said_and_the_last_picture_stands() -> None:
    lines = drawn(busy(), status="no connection")
    assert lines[0].endswith("no connection")
    assert "1234 tok/s" in lines[2]
    assert drawn(History(), status="connecting") == ["connecting"]


def test_a_question_is_asked_where_the_keys_stood() -> None:
    view = View(question=Order("drain", "decode-0"), selected="decode-0")
    lines = drawn(busy(), view)
    assert lines[-1].startswith("drain decode-0? y/n  no other serves")
    assert any(line.startswith("▸ decode-0") for line in lines)
    workers = [worker("prefill-0"), worker("decode-0"), worker("decode-1")]
    assert "goes on elsewhere" in drawn(history_of(tick(*workers)), view)[-1]
    assert drawn(busy(), View(notice="decode-0 is draining"))[-1] == "decode-0 is draining"


def test_a_narrow_picture_cuts_no_number() -> None:
    details = {"sequences": 200, "used_blocks": 100, "busy": 1.0}
    names = ("prefill-0", "decode-0", "decode-1")
    history = history_of(
        tick(
            *(worker(name, **details) for name in names),
            requests={"counts": {"queued": 1200, "prefill": 12, "transfer": 345, "decode": 12_345}},
            first_token_s=[0.0123, 0.0456],
            between_tokens_s=[0.00123, 0.0456],
            pipeline={"efficiency": 0.75, "hidden": 0.98},
        )
    )
    text = "\n".join(drawn(history, size=Size(60, None)))
    assert "…" not in text
    for said in ("12.3 ms / 45.6 ms", "1.23 ms / 45.6 ms", "transfer 345", "12.3k", "200/256"):
        assert said in text
    assert "efficiency" not in text and "prefix hits" not in text.splitlines()[-4]


def test_nobody_and_nothing_can_be_drawn() -> None:
    lines = drawn(history_of(tick(model=None)))
    assert lines[0].startswith("Tandem  no worker has joined")
    assert "bottleneck Idle: nothing is asked for" in lines


def test_all_of_it_is_printed_where_there_is_no_end() -> None:
    workers = [worker(f"decode-{number}") for number in range(30)]
    lines = drawn(history_of(tick(*workers)), size=Size(80, None))
    assert all(
        any(line.startswith(f"● decode-{number} ") for line in lines) for number in range(30)
    )
    assert not any("quit" in line for line in lines)


@given(
    st.integers(1, 40),
    st.integers(0, 40),
    st.integers(40, 220),
    st.integers(LEAST_HEIGHT, 70),
    st.integers(0, 60),
)
def test_it_is_never_larger_than_its_size(
    num_decode: int, num_prefill: int, width: int, height: int, place: int
) -> None:
    names = [f"prefill-{number}" for number in range(num_prefill)]
    names += [f"decode-of-a-very-long-name-{number}" for number in range(num_decode)]
    selected = names[place % len(names)]
    history = history_of(tick(*map(worker, names)))
    lines = drawn(history, View(selected=selected), Size(width, height))
    assert len(lines) <= height
    assert max(map(len, lines)) <= width
    assert any(line.startswith("▸") for line in lines), "who is chosen is seen"
    hidden = [line for line in lines if line.startswith("  and ")]
    num_rows = sum(line.startswith(("●", "▸")) for line in lines)
    assert num_rows == len(names) or hidden == [f"  and {len(names) - num_rows} more"]


@given(st.integers(10_000, 120_000_000), st.integers(10, 200), st.booleans())
def test_the_axis_is_as_wide_as_its_lanes(span_us: int, cells: int, is_still: bool) -> None:
    window = Window(PRESENT_US - span_us, PRESENT_US)
    text = axis(window, PRESENT_US, cells, is_still=is_still).plain
    assert len(text) == 13 + cells
    assert text.endswith("paused" if is_still else "now")


def test_charts_are_means_of_what_is_known() -> None:
    points = [(0, 1.0), (5, 3.0), (10, None), (25, 5.0), (40, 9.0), (99, 1.0)]
    assert resampled(points, 0, 40, 4) == [2.0, None, 5.0, 9.0]
    assert spark([None, 0.0, 0.01, 0.5, 1.0, 9.0], 1.0) == " ▁▁▄██"
