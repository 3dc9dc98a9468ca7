"""Least slack first: a policy of one's own, for `--policy least-slack`."""

from __future__ import annotations

from gateway.policies import QueuePolicy, WaitingPrompt


class LeastSlackFirst(QueuePolicy):
    """What can least afford to wait goes first: slack is what is left until a prompt is due, beyond
    the time that it takes to compute.

    All slack shrinks at the same pace, so the order of what waits never changes, and need not know
    what time it is. Nobody starves: nothing is due before it comes, so what comes later after a
    prompt is due than the longest prompt takes cannot overtake it.
    """

    def rank(self, prompt: WaitingPrompt) -> float:
        return prompt.due_s - prompt.work_s
