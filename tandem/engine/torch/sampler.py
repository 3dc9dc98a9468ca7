"""Sampling: a pure function of logits, parameters, choice, position, own tokens and grammar.

A row's token depends on nothing else, the other rows included, so any worker can sample any token
of any request again. The order is vLLM's: bias and penalties (`adjustments`), what grammar and
`min_tokens` allow, temperature, min-p, top-k, top-p. On a CPU it goes row by row (`host_sampling`),
on a GPU by all rows at once, and without waiting for it (`device_sampling`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tandem.engine.torch.device_sampling import sample_on_device
from tandem.engine.torch.host_sampling import sample_row
from tandem.engine.torch.sample_row import NO_TOKEN, SampleRow

__all__ = ["NO_TOKEN", "SampleRow", "sample"]


def sample(logits: Tensor, rows: Sequence[SampleRow]) -> Tensor:
    """The tokens, int64 [rows], given `logits` [rows, vocab_size], in float32 on a CPU.

    Temperature 0 takes the likeliest token; else the Gumbel-max trick draws. Ties go to the lowest
    id. A row whose logits are not numbers, or leave nothing to choose from, gets `NO_TOKEN`: a step
    serves many requests and does not fail for one.
    """
    if logits.device.type != "cpu":
        return sample_on_device(logits, rows)
    on_host = logits.numpy()
    return torch.tensor(
        [sample_row(on_host[index], row) for index, row in enumerate(rows)], dtype=torch.int64
    )
