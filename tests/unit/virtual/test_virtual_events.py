"""Virtual time."""

from __future__ import annotations

from tandem.simulation.events import Events


def test_what_is_due_first_happens_first_and_the_clock_stands_there() -> None:
    events, happened = Events(), []
    for when_s in (3.0, 1.0, 2.0):
        events.at(when_s, lambda: happened.append(events.now_s))
    events.run()
    assert happened == [1.0, 2.0, 3.0]


def test_of_what_is_due_at_once_who_was_planned_first_comes_first() -> None:
    events, happened = Events(), []
    for number in range(5):
        events.at(1.0, happened.append, number)
    events.run()
    assert happened == list(range(5))


def test_what_happens_may_plan_more() -> None:
    events, happened = Events(), []

    def tick() -> None:
        happened.append(events.now_ns)
        if len(happened) < 3:
            events.after(0.5, tick)

    events.after(0.5, tick)
    events.run()
    assert happened == [500_000_000, 1_000_000_000, 1_500_000_000]


def test_nothing_happens_in_the_past() -> None:
    events, happened = Events(), []
    events.at(2.0, events.at, 1.0, lambda: happened.append(events.now_s))
    events.run()
    assert happened == [2.0]


def test_a_run_ends_at_its_limit_or_when_it_is_told_and_can_go_on() -> None:
    events, happened = Events(), []
    for when_s in (1.0, 2.0, 3.0):
        events.at(when_s, happened.append, when_s)
    events.run(limit_s=2.0)
    assert happened == [1.0, 2.0]
    events.run(until=lambda: True)
    assert happened == [1.0, 2.0]
    events.run()
    assert happened == [1.0, 2.0, 3.0]
