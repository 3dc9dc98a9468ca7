"""Where an attempt's time went: every moment is some stage's, and no stage's twice."""

from __future__ import annotations

from itertools import pairwise
from math import isclose

from hypothesis import given
from hypothesis import strategies as st

from gateway.stages import MAX_KEPT, Attempt, AttemptEnd, Attempts, Stage, transfer_times
from tandem.core.reports import Span, SpanKind

TIMES = st.floats(0.0, 100.0)
# Reports come in any order, and clocks are not exact.
REPORTS = st.lists(st.tuples(st.sampled_from(list(Stage)[1:]), TIMES), max_size=12)


def attempt_of(reports: list[tuple[Stage, float]], end_s: float) -> Attempt:
    attempt = Attempt(1)
    attempt.begin(Stage.QUEUE, 5.0)
    for stage, at_s in reports:
        attempt.begin(stage, at_s)
    attempt.end_s = max(5.0, end_s)
    return attempt


def end(attempts: Attempts, at_s: float, why: AttemptEnd | None = None) -> None:
    attempts.current.end_s, attempts.current.end = at_s, why


@given(REPORTS, TIMES)
def test_the_stages_of_an_attempt_follow_one_another_from_its_start_to_its_end(reports, end_s):
    attempt = attempt_of(reports, end_s)
    stages = list(attempt.stages())
    assert [each.stage for each in stages] == sorted(
        {Stage.QUEUE, *(stage for stage, _ in reports)}
    )
    assert (stages[0].start_s, stages[-1].end_s) == (5.0, attempt.end_s)
    assert all(each.start_s <= each.end_s for each in stages)
    assert all(one.end_s == other.start_s for one, other in pairwise(stages))


@given(REPORTS, TIMES)
def test_who_reports_again_changes_nothing(reports, end_s):
    again = [(stage, at_s + 1.0) for stage, at_s in reports]
    once, twice = attempt_of(reports, end_s), attempt_of([*reports, *again], end_s)
    assert list(once.stages()) == list(twice.stages())


@given(st.lists(st.tuples(REPORTS, st.floats(0.0, 10.0)), min_size=1, max_size=2 * MAX_KEPT))
def test_the_seconds_of_all_attempts_add_up_to_the_whole(each):
    attempts = Attempts(0, now=5.0)
    now = 5.0
    for number, (reports, lasted_s) in enumerate(each, start=1):
        if number > 1:
            attempts.next(number)
        for stage, at_s in reports:
            attempts.current.begin(stage, at_s)
        now += lasted_s
        end(attempts, now, AttemptEnd.PREEMPTED)
    assert isclose(sum(attempts.seconds().values()), now - 5.0, abs_tol=1e-9)
    assert attempts.num_past == len(each) - 1


def test_of_very_many_attempts_the_first_and_the_newest_are_kept():
    attempts = Attempts(1, now=0.0)
    attempts.current.begin(Stage.RESERVE, 0.25)
    for number in range(2, 100):
        end(attempts, float(number), AttemptEnd.REFUSED)
        attempts.next(number)
    kept = [attempt.number for attempt in attempts.kept]
    assert kept == [*range(1, MAX_KEPT), 98, 99]
    assert attempts.placed_s == 0.25


def test_a_stage_whose_report_was_lost_is_counted_to_the_one_before():
    attempt = attempt_of([(Stage.PREFILL_WAIT, 6.0), (Stage.DECODE, 9.0)], 10.0)
    assert [(stage, end_s - start_s) for stage, start_s, end_s in attempt.stages()] == [
        (Stage.QUEUE, 1.0),
        (Stage.PREFILL_WAIT, 3.0),
        (Stage.DECODE, 1.0),
    ]


def test_a_transfer_is_placed_on_the_gateways_clock():
    span = Span(SpanKind.TRANSFER, 1_000, 2_000, number=6, num_bytes=77, compute_end_ns=1_750)
    times = transfer_times(span, lambda at_ns: (at_ns + 500) / 1e9)
    assert (times.start_s, times.end_s) == (1.5e-6, 2.5e-6)
    assert (times.num_bytes, times.num_frames, times.hidden_share) == (77, 6, 0.75)


def test_who_is_parked_again_and_again_is_remembered_a_few_times():
    attempt = Attempt(1)
    for number in range(1000):
        attempt.park(float(number))
    assert len(attempt.parked_s) == MAX_KEPT
