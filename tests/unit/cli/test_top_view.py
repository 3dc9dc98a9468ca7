"""What keys do in `tandem top`."""

from __future__ import annotations

import pytest
from top_ticks import NOW_US, history_of, tick, worker

from tandem.cli.top.history import History
from tandem.cli.top.keyboard import parse_keys
from tandem.cli.top.view import (
    FIRST_SPAN_US,
    LAG_US,
    MAX_SPAN_US,
    MIN_SPAN_US,
    Order,
    View,
)


@pytest.fixture
def history() -> History:
    drained = worker("decode-1", state="drained")
    return history_of(tick(worker("prefill-0"), worker("decode-0"), drained))


def press(view: View, history: History, *keys: str) -> list[Order]:
    return [order for key in keys if (order := view.press(key, history))]


def test_what_is_seen_follows_the_present_until_it_is_paused(history: History) -> None:
    view = View()
    end_us = NOW_US - LAG_US
    assert view.window(tick()) == (end_us - FIRST_SPAN_US, end_us)
    later = tick(now=NOW_US + 5_000)
    assert view.window(later).end_us == end_us + 5_000
    press(view, history, "p")
    assert view.window(later).end_us == end_us
    press(view, history, " ")
    assert view.window(later).end_us == end_us + 5_000


def test_it_moves_back_and_not_beyond_the_present(history: History) -> None:
    view = View()
    press(view, history, "right")
    assert view.window(tick()).end_us == NOW_US - LAG_US
    press(view, history, "left", "left")
    assert view.window(tick()).end_us == NOW_US - LAG_US - FIRST_SPAN_US // 2
    press(view, history, "right")
    assert view.window(tick()).end_us == NOW_US - LAG_US - FIRST_SPAN_US // 4
    press(view, history, "end")
    assert view.still_us is None


def test_zooming_has_ends(history: History) -> None:
    view = View()
    press(view, history, "+")
    assert view.span_us == FIRST_SPAN_US / 2
    press(view, history, *"+" * 20)
    assert view.span_us == MIN_SPAN_US
    press(view, history, *"-" * 20)
    assert view.span_us == MAX_SPAN_US


def test_workers_are_chosen_in_turn(history: History) -> None:
    view = View()
    seen = []
    for key in ("up", "down", "down", "j", "k", "k", "k"):
        press(view, history, key)
        seen.append(view.selected)
    names = ["prefill-0", "decode-0", "decode-1"]
    assert seen == [names[2], names[0], names[1], names[2], names[1], names[0], names[2]]
    press(View(), history_of(tick()), "down", "up")


def test_a_worker_is_drained_when_the_question_is_answered_with_yes(history: History) -> None:
    view = View(selected="decode-0")
    assert press(view, history, "d", "n") == []
    assert press(view, history, "d", " ") == []
    assert view.still_us is None, "the key was the question's"
    assert press(view, history, "y") == []
    assert press(view, history, "d", "y") == [Order("drain", "decode-0")]
    assert view.question is None


@pytest.mark.parametrize(
    ("selected", "key", "notice"),
    [
        (None, "d", "choose a worker first"),
        ("gone", "u", "choose a worker first"),
        ("decode-1", "d", "decode-1 is drained"),
        ("decode-0", "u", "decode-0 is serving"),
    ],
)
def test_an_order_that_makes_no_sense_is_not_given(
    history: History, selected: str | None, key: str, notice: str
) -> None:
    view = View(selected=selected)
    assert press(view, history, key, "y") == []
    view.press(key, history)
    assert view.notice.startswith(notice)


def test_a_drained_worker_is_put_back_without_a_question(history: History) -> None:
    assert press(View(selected="decode-1"), history, "u") == [Order("undrain", "decode-1")]


def test_keys_do_nothing_before_there_is_a_picture() -> None:
    view = View()
    assert press(view, History(), "p", "+", "down", "d", "y") == []
    assert view == View()


@pytest.mark.parametrize(
    ("sent", "keys"),
    [
        ("q", ["q"]),
        ("pp+", ["p", "p", "+"]),
        ("\x1b[A\x1b[B\x1b[C\x1b[D", ["up", "down", "right", "left"]),
        ("\x1bOA\x1bOF\x1b[4~", ["up", "end", "end"]),
        ("\x1b[5~\x1b[1;5Cq", ["q"]),
        ("\x1b", []),
        ("\n \u00e9", ["\n", " ", "\u00e9"]),
        ("", []),
    ],
)
def test_keys_are_read_as_terminals_send_them(sent: str, keys: list[str]) -> None:
    assert parse_keys(sent) == keys
