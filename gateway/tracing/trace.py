"""What is told of a request that may be traced.

The classes here trace nothing, at the cost of a call a request: tracing is off unless it is asked
for. `otlp.py` has those that do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.generation import Generation
    from gateway.request import GenerationRequest
    from gateway.request_metrics import TokenTimes
    from gateway.tokens import Ended
    from tandem.core.errors import TandemError
    from tandem.core.sampling_params import SamplingParams


class RequestTrace:
    """One request's. Of one that is not traced, the `trace_id` is empty."""

    @property
    def trace_id(self) -> str:
        return ""

    def submitted(
        self, request_id: str, model_name: str, num_prompt_tokens: int, params: SamplingParams
    ) -> None:
        """It was read, checked and tokenised; its choices are queued from now on."""

    def choice_ended(
        self, generation: Generation, times: TokenTimes, event: Ended | TandemError
    ) -> None:
        """One of its choices has ended. Never raises."""

    def end(self, error: BaseException | None = None) -> None:
        """It is over for its client; `error`, if that was before it was submitted. Idempotent."""


class Tracing:
    """Begins traces. This one begins none."""

    def begin(self, request: GenerationRequest) -> RequestTrace:
        """A request has come."""
        return NO_TRACE

    async def close(self) -> None:
        """Send what is not sent yet, and wait for it, but not for long."""


NO_TRACE = RequestTrace()
