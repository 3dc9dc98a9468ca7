"""What the log says of requests: one line for each that has ended, with where its time went.
Nothing of what was asked or answered is in it."""

from __future__ import annotations

from math import isnan
from typing import Any

import structlog

from gateway.generation import Generation
from gateway.request_metrics import TokenTimes
from gateway.tokens import Ended
from tandem.core.errors import TandemError

log = structlog.get_logger(__name__)

# Tenths of a millisecond.
DECIMALS = 4


def log_end(
    generation: Generation, times: TokenTimes, event: Ended | TandemError, model_name: str
) -> None:
    """A generation's one end. The stages' seconds add up to its `total_s`."""
    attempts = generation.attempts
    log.info(
        "request ended",
        **_names(generation, model_name),
        outcome=event.finish_reason.name if isinstance(event, Ended) else event.reason,
        why="" if isinstance(event, Ended) else event.message,
        mode=generation.served_by().mode_name,
        prefill=generation.prefill_worker,
        decode=generation.decode_worker,
        prompt_tokens=generation.num_prompt_tokens,
        cached_tokens=generation.num_cached_tokens,
        tokens=len(generation.token_ids),
        **{f"{stage.name.lower()}_s": _rounded(s) for stage, s in attempts.seconds().items()},
        ttft_s=None if isnan(times.first_s) else _rounded(times.first_s - generation.arrived_s),
        total_s=_rounded(attempts.current.end_s - generation.arrived_s),
        attempts=attempts.num_past + 1,
        preemptions=generation.setbacks.num_preemptions,
        recoveries=generation.setbacks.num_losses,
        bad_transfers=generation.setbacks.num_bad_transfers,
    )


def _names(generation: Generation, model_name: str) -> dict[str, Any]:
    """Whose it is, and what it is called here, by the workers and in its trace."""
    request = generation.request
    names: dict[str, Any] = {
        "request_id": request.request_id,
        "choice": request.choice_index,
        "tenant": request.tenant,
        "model": model_name,
        "sequences": [attempt.sequence_id for attempt in generation.attempts.kept],
    }
    if request.trace.trace_id:
        names["trace_id"] = request.trace.trace_id
    return names


def _rounded(seconds: float) -> float:
    return round(seconds, DECIMALS)
