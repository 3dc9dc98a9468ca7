"""When a step may be launched behind another."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tandem.worker.run_ahead import MAX_TRIES_AHEAD, NUM_STEPS_ALONE, RunAhead


def fail_behind(ahead: RunAhead) -> None:
    """The step behind another fails; the one before it is good."""
    ahead.failed()
    ahead.succeeded(is_behind=False)


def succeed_alone(ahead: RunAhead, num_steps: int) -> None:
    for _ in range(num_steps):
        assert not ahead.is_allowed
        ahead.succeeded(is_behind=False)


def test_an_engine_that_always_fails_behind_another_step_has_them_one_by_one() -> None:
    """However many succeed alone in between."""
    ahead = RunAhead(is_able=True)
    for _ in range(MAX_TRIES_AHEAD):
        assert ahead.is_allowed
        fail_behind(ahead)
        succeed_alone(ahead, NUM_STEPS_ALONE - 1)
    assert not ahead.is_allowed
    # One that was launched before the last failure changes nothing.
    ahead.succeeded(is_behind=True)
    assert not ahead.is_allowed


def test_what_fails_once_in_a_while_runs_ahead_for_ever() -> None:
    ahead = RunAhead(is_able=True)
    for _ in range(10 * MAX_TRIES_AHEAD):
        assert ahead.is_allowed
        ahead.succeeded(is_behind=True)
        fail_behind(ahead)
        succeed_alone(ahead, NUM_STEPS_ALONE - 1)


def test_what_fails_alone_is_no_try_to_run_ahead() -> None:
    ahead = RunAhead(is_able=True)
    for _ in range(MAX_TRIES_AHEAD - 1):
        fail_behind(ahead)
        ahead.failed()
        succeed_alone(ahead, NUM_STEPS_ALONE)
    assert ahead.is_allowed


@given(st.lists(st.sampled_from((True, False, None)), max_size=20))
def test_it_is_never_allowed_within_so_many_steps_of_a_failure_nor_to_who_is_not_able(
    outcomes: list[bool | None],
) -> None:
    """Of steps that fail, or are good, behind another or alone."""
    able, unable = RunAhead(is_able=True), RunAhead(is_able=False)
    has_failed = False
    for is_behind in outcomes:
        for ahead in (able, unable):
            if is_behind is None:
                ahead.failed()
            else:
                ahead.succeeded(is_behind)
        has_failed |= is_behind is None
        assert able.is_allowed is not has_failed
        assert not unable.is_allowed
