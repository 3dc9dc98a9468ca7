"""How many prompt tokens a decode worker's steps may have, by how long its steps were seen to take.

If it was said how long a token may take (`--tpot-target-ms`), steps are to end within that.

If not: where a step has to read for longer than it computes, as on a GPU, tokens are *nearly free*:
as many as their arithmetic fits into the time of a step without them. That is known when steps with
such tokens were seen to take little longer. Where every token costs its time, as on most CPUs, what
they cost running sequences is bounded.
"""

from __future__ import annotations

from gateway.step_times import MAX_GROWTH, Pace, StepTimes

# A step with prompt tokens beside running sequences may take so many times one without.
MAX_STRETCH = 1.25
# While no sequence runs. Most of it goes into its tokens then, and whoever comes meanwhile waits
# for the rest of one step, once.
MAX_IDLE_STRETCH = 3
# For tokens that are nearly free: how much of the time of a step without them their arithmetic may
# take, and how long the step with them may be seen to take.
FREE_SHARE = 0.75
MAX_FREE_STRETCH = 1.25
# Beside what a step has to pay for having any, if that is no more than so many times its own time:
# then, too, the more tokens a step has, the fewer steps pay.
MAX_JOINT_SHARE = 2
# Prompt tokens of a step that is to get on with them: a short prompt is to be through in two or
# three, and a row more costs less the more there are. As many while nothing is known.
HURRIED_BUDGET = 16
# At the most, before any was seen: prefill workers may be faster than this one.
MAX_FIRST_BUDGET = 128
# How much of the time that a token may take a step does: the rest is what lies between two steps,
# and what is not foreseen.
TARGET_SHARE = 0.95


def token_budget(times: StepTimes, pace: Pace, is_hurried: bool, target_s: float = 0.0) -> int:
    """Prompt tokens that a step may have beside running sequences, whose tokens may take `target_s`
    seconds (0: nobody said). Unless it `is_hurried` these pay as little as can be: for one token,
    so that a prompt gets on at all, or as many as are nearly free."""
    if not times.is_measured:
        return HURRIED_BUDGET
    num_free = num_free_tokens(times, pace.token_s)
    if target_s and (num_free or is_hurried):
        return max(HURRIED_BUDGET if is_hurried else 1, num_on_target(times, pace.most_s, target_s))
    if num_free:
        return min(num_free, MAX_GROWTH * max(HURRIED_BUDGET, times.largest))
    if not is_hurried:
        return 1
    num_fitting = _num_fitting(times, pace.token_s)
    # On a worker like the prefill workers the step takes no more than it may, whatever tokens cost.
    at_first = min(MAX_FIRST_BUDGET, max(HURRIED_BUDGET, _num_fitting(times, pace.least_s)))
    num_tokens = times.tokens_within(MAX_STRETCH * times.prompt_step_s, at_first)
    if num_fitting:
        # Those that were seen may have cost nothing, hidden behind what a step reads anyway. Of
        # more than fit into that time this is no promise.
        num_tokens = min(num_tokens, num_fitting)
    return max(HURRIED_BUDGET, num_tokens)


def idle_token_budget(times: StepTimes) -> int:
    """Prompt tokens that a step may have while no sequence runs, by the times of such steps."""
    if not times.is_measured:
        return HURRIED_BUDGET
    num_tokens = times.tokens_within(MAX_IDLE_STRETCH * times.prompt_step_s, HURRIED_BUDGET)
    return max(HURRIED_BUDGET, num_tokens)


def num_on_target(times: StepTimes, token_s: float, target_s: float) -> int:
    """Prompt tokens of a step that ends in time for sequences whose tokens may take `target_s`
    seconds: as far as its steps tell, and no more than could be computed in that time if each took
    `token_s`, where that is known."""
    step_s = TARGET_SHARE * target_s
    num_computed = int(step_s / token_s) if token_s else MAX_FIRST_BUDGET
    return min(num_computed, times.tokens_within(step_s, min(MAX_FIRST_BUDGET, num_computed)))


def num_free_tokens(times: StepTimes, token_s: float) -> int:
    """Prompt tokens that cost a step next to nothing; 0 if any do, as far as is known. A token
    takes `token_s` seconds on a prefill worker."""
    num_tokens = _num_fitting(times, token_s)
    stretched_s = times.seconds(num_tokens)
    least_s = times.bare_s + min(times.joint_s, MAX_JOINT_SHARE * times.bare_s)
    is_free = num_tokens >= HURRIED_BUDGET and stretched_s <= MAX_FREE_STRETCH * least_s
    return num_tokens if is_free and times.largest > 0 else 0


def _num_fitting(times: StepTimes, token_s: float) -> int:
    """Tokens whose arithmetic, at a prefill worker's pace, fits well into the time of a step."""
    return int(FREE_SHARE * times.bare_s / token_s) if token_s else 0
