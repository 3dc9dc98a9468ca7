"""Log-probabilities of a model's own distribution, before any sampling parameter."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from tandem.core.logprobs import LEAST_LOGPROB, TokenLogprobs
from tandem.engine.torch.ranking import highest


@dataclass(frozen=True, slots=True)
class RowLogprobs:
    """A row's log-probabilities, perhaps still on the device: of the sampled token [1], and of the
    likeliest ones [num_top]."""

    own: Tensor
    top_ids: Tensor
    top: Tensor

    @classmethod
    def of(cls, logits: Tensor, token_id: Tensor, num_top: int) -> RowLogprobs:
        """From one row of float32 logits [vocab_size]. Of equals the lowest id comes first."""
        logprobs = logits.log_softmax(dim=0).nan_to_num(LEAST_LOGPROB, neginf=LEAST_LOGPROB)
        top_ids = highest(logprobs, min(num_top, len(logprobs)))
        return cls(logprobs[token_id], top_ids, logprobs[top_ids])

    def report(self) -> TokenLogprobs:
        """Waits for the device."""
        return TokenLogprobs.of(self.own.item(), self.top_ids.tolist(), self.top.tolist())
