"""What a request is billed for, and how it was served."""

from __future__ import annotations

from gateway.answer import Answer
from gateway.choice import Delta, Finished
from gateway.tokens import ServedBy

Json = dict[str, object]


class UsageMeter:
    """Adds up an answer's events."""

    def __init__(self, answer: Answer) -> None:
        self._num_prompt_tokens = answer.num_prompt_tokens
        self._choices_per_prompt = answer.choices_per_prompt
        self._num_tokens = 0
        self._num_cached_tokens = 0

    def add(self, event: Delta | Finished) -> None:
        """Take the next event. A prompt counts once, with what its first choice found cached."""
        if isinstance(event, Delta):
            self._num_tokens += len(event.token_ids)
        elif event.choice_index % self._choices_per_prompt == 0:
            self._num_cached_tokens += event.served_by.num_cached_tokens

    def json(self) -> Json:
        """OpenAI's `usage`, so far."""
        return {
            "prompt_tokens": self._num_prompt_tokens,
            "completion_tokens": self._num_tokens,
            "total_tokens": self._num_prompt_tokens + self._num_tokens,
            "prompt_tokens_details": {"cached_tokens": self._num_cached_tokens},
        }


def served_by_json(by: ServedBy) -> Json:
    """How a choice was served: our extension, `tandem`."""
    return {
        "mode": by.mode_name,
        "prefill_worker": by.prefill_worker,
        "decode_worker": by.decode_worker,
        "kv_bytes": by.kv_bytes,
        "recoveries": by.num_losses,
        "bad_transfers": by.num_bad_transfers,
        "preemptions": by.num_preemptions,
    }
