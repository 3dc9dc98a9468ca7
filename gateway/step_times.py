"""How long a worker's steps take, learned from those that it has run."""

from __future__ import annotations

from math import inf
from typing import NamedTuple

# What is not known at first: standard deviations in seconds, and in seconds a token. A token's is
# small beside a whole step's: a step of few tokens says little of what a token costs. What all of a
# step's prompt tokens cost together, however few, is some milliseconds at the most: it is believed
# only once steps of several sizes say so.
FIRST_BASE_S = 1.0
FIRST_JOINT_S = 0.001
FIRST_TOKEN_S = 0.01
# How far they move from step to step, and how far a step may be from the line, as shares.
BASE_DRIFT = 0.05
TOKEN_DRIFT = 0.02
NOISE = 0.1
MIN_NOISE_S = 1e-6
# How much the newest step counts of those without prompt tokens.
BARE_WEIGHT = 0.1
# A step may have so many times the tokens of the largest that was measured.
MAX_GROWTH = 4


class Pace(NamedTuple):
    """Seconds of a prompt token where a fleet computes it the fastest: as estimated, and the least
    that one was seen to take, with all that its step did beside. 0: not known."""

    token_s: float = 0.0
    least_s: float = 0.0

    @property
    def most_s(self) -> float:
        """The greater of the two: no token costs less, as far as is known."""
        return max(self.token_s, self.least_s)


class StepTimes:
    """A line with a step: one without prompt tokens takes `base_s`; another what `prompt_step_s`
    says, and `token_s` more for each of its prompt tokens. The step up is what a GPU's host takes
    to launch kernels one by one, where single tokens alone have a graph.

    All are followed by a Kalman filter, as they move with the batch, the contexts and whatever else
    the machine does. The noise is a share of the step's own time, so that a stall counts
    little. What a step's size says nothing of stays as it was: many small steps do not make one
    forget what large ones cost.
    """

    def __init__(self) -> None:
        self.is_measured = False
        self.num_prompt_steps = 0
        """Those that had prompt tokens."""
        self.largest = 0
        """Prompt tokens of the largest step that was measured."""
        self.least_token_s = inf
        """Seconds for each prompt token of the step where that was least, ever. Unlike `token_s`,
        which is near zero until steps of several sizes were seen, no less than a token costs, if
        steps were measured right."""
        self.bare_s = 0.0
        """Mean of steps that had no prompt tokens; 0 if there were none. Where nearly all have as
        many, the line says little of those that have none."""
        self._base_s = 0.0
        self._joint_s = 0.0
        self._token_s = 0.0
        # Variances, and the covariances.
        self._base_var = FIRST_BASE_S**2
        self._joint_var = FIRST_JOINT_S**2
        self._token_var = FIRST_TOKEN_S**2
        self._base_joint = self._base_token = self._joint_token = 0.0

    @property
    def base_s(self) -> float:
        """Seconds of a step without prompt tokens."""
        return max(0.0, self._base_s)

    @property
    def joint_s(self) -> float:
        """Seconds that prompt tokens add to a step, however few they are."""
        return max(0.0, self._joint_s)

    @property
    def prompt_step_s(self) -> float:
        """Seconds of a step with prompt tokens, but for what each of them adds."""
        return self.base_s + self.joint_s

    @property
    def token_s(self) -> float:
        """Seconds that each prompt token adds to a step; 0 while nothing is known."""
        return max(0.0, self._token_s)

    def observe(self, num_tokens: int, seconds: float) -> None:
        """A step with so many prompt tokens took so long."""
        self.is_measured = True
        self.largest = max(self.largest, num_tokens)
        if num_tokens:
            self.num_prompt_steps += 1
            self.least_token_s = min(self.least_token_s, seconds / num_tokens)
        else:
            self.bare_s += (BARE_WEIGHT if self.bare_s else 1.0) * (seconds - self.bare_s)
        self._base_var += (BASE_DRIFT * self._base_s) ** 2
        self._joint_var += (BASE_DRIFT * self._joint_s) ** 2
        self._token_var += (TOKEN_DRIFT * self._token_s) ** 2
        has_any = 1 if num_tokens else 0
        base = self._base_var + has_any * self._base_joint + num_tokens * self._base_token
        joint = self._base_joint + has_any * self._joint_var + num_tokens * self._joint_token
        token = self._base_token + has_any * self._joint_token + num_tokens * self._token_var
        noise = max(NOISE * seconds, MIN_NOISE_S) ** 2
        variance = base + has_any * joint + num_tokens * token + noise
        foreseen_s = self._base_s + has_any * self._joint_s + num_tokens * self._token_s
        error = (seconds - foreseen_s) / variance
        self._base_s += base * error
        self._joint_s += joint * error
        self._token_s += token * error
        self._base_var -= base**2 / variance
        self._joint_var -= joint**2 / variance
        self._token_var -= token**2 / variance
        self._base_joint -= base * joint / variance
        self._base_token -= base * token / variance
        self._joint_token -= joint * token / variance

    def seconds(self, num_tokens: int) -> float:
        """How long a step with so many prompt tokens will take."""
        return self.prompt_step_s + self.token_s * num_tokens if num_tokens else self.base_s

    def tokens_within(self, seconds: float, at_first: int) -> int:
        """How many prompt tokens a step may have that is to end within `seconds`: `at_first` while
        nothing is known, and never many times more than were measured."""
        limit = max(at_first, MAX_GROWTH * self.largest)
        room_s = seconds - self.prompt_step_s
        if room_s <= 0:
            return 0
        return limit if room_s >= limit * self.token_s else int(room_s / self.token_s)
