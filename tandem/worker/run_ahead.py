"""Whether a step may be launched while the one before it is under way."""

from __future__ import annotations

import structlog

log = structlog.get_logger(__name__)

# Good steps, one by one, after which an engine that has failed runs ahead again; if no step behind
# another has succeeded since, only so often.
NUM_STEPS_ALONE = 300
MAX_TRIES_AHEAD = 3


class RunAhead:
    """Of an engine that does so. Once it has failed its steps go one by one for a while: whatever
    the failure was, it may not come when no step is behind another."""

    def __init__(self, is_able: bool) -> None:
        self._num_tries_left = MAX_TRIES_AHEAD if is_able else 0
        # Good ones that are still to come before it runs ahead again.
        self._num_steps_alone = 0

    @property
    def is_allowed(self) -> bool:
        return self._num_tries_left > 0 and self._num_steps_alone == 0

    def succeeded(self, is_behind: bool) -> None:
        """A step was good; whether it was launched behind another."""
        if is_behind and self._num_tries_left:
            self._num_tries_left = MAX_TRIES_AHEAD
        self._num_steps_alone = max(0, self._num_steps_alone - 1)

    def failed(self) -> None:
        """The engine has failed."""
        if self.is_allowed:
            self._num_tries_left -= 1
            log.warning("steps go one by one", for_good=self._num_tries_left == 0)
        self._num_steps_alone = NUM_STEPS_ALONE
