"""Log-probabilities of a model's own distribution, before any sampling parameter."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tandem.core.logprobs import LEAST_LOGPROB, LogprobColumns, TokenLogprobs
from tandem.core.plan import ScoreSpec, StepPlan
from tandem.engine.torch.host_copy import HostCopy
from tandem.engine.torch.ranking import highest
from tandem.engine.torch.uploads import upload

# Bounds what is held at a time: a few numbers for each of a row's vocabulary.
MAX_ROWS = 32

Columns = tuple[Tensor, Tensor, Tensor]
"""Of some rows one token's log-probability [rows], which was sampled or is there already; and the
ids of the likeliest tokens, and their log-probabilities, [rows, num_top] each."""


@dataclass(frozen=True, slots=True)
class StepLogprobs:
    """The log-probabilities of a step, perhaps on their way from the device. `num_tops` says of
    each row how many of the likeliest tokens it is asked for, None where it is asked for nothing;
    `columns` are those of the rows that are asked, or empty."""

    num_tops: Sequence[int | None]
    columns: Sequence[HostCopy] = ()

    @classmethod
    def of(cls, logits: Tensor, token_ids: Tensor, num_tops: Sequence[int | None]) -> StepLogprobs:
        """Of `logits` [rows, vocab_size], and the sampled `token_ids` [rows]. Does not wait
        for the device."""
        asked = [num_top for num_top in num_tops if num_top is not None]
        if not asked:
            return cls(num_tops)
        parts = [
            columns_of(logits[rows], token_ids[rows], max(asked))
            for rows in _parts(logits, num_tops)
        ]
        return cls(num_tops, _joined(parts))

    def report(self) -> list[TokenLogprobs | None]:
        """Each row's. Waits for the device."""
        if not self.columns:
            return [None] * len(self.num_tops)
        rows = zip(*(each.wait().tolist() for each in self.columns), strict=True)
        return [
            None if num_top is None else _report(num_top, *next(rows)) for num_top in self.num_tops
        ]


@dataclass(frozen=True, slots=True)
class StepScores:
    """The scores of a step's prompts, likewise: `asked` are those of its slices that ask for any,
    and `columns` those of all their targets."""

    asked: Sequence[ScoreSpec] = ()
    columns: Sequence[HostCopy] = ()

    @classmethod
    def of(cls, plan: StepPlan, logits_of: Callable[[NDArray[np.int64]], Tensor]) -> StepScores:
        """`logits_of` is the `Runner`'s that has just computed the step. Does not wait for the
        device."""
        asked = [each.score for each in plan.slices if each.score]
        num_top = max(each.num_top for each in asked)
        rows = _scored_rows(plan)
        targets = torch.from_numpy(np.concatenate([np.asarray(e.targets, np.int64) for e in asked]))
        parts: list[Columns] = []
        for start in range(0, len(rows), MAX_ROWS):
            part = slice(start, start + MAX_ROWS)
            logits = logits_of(rows[part])
            parts.append(columns_of(logits, upload(targets[part], logits.device), num_top))
        return cls(asked, _joined(parts))

    def report(self) -> list[LogprobColumns]:
        """Each asking slice's. Waits for the device."""
        if not self.asked:
            return []
        sizes = [len(each.targets) for each in self.asked]
        parts = zip(
            self.asked, *(torch.split(each.wait(), sizes) for each in self.columns), strict=True
        )
        return [
            LogprobColumns(
                array("f", its.numpy().tobytes()),
                array("I", its_ids[:, : score.num_top].to(torch.int32).numpy().tobytes()),
                array("f", its_top[:, : score.num_top].numpy().tobytes()),
            )
            for score, its, its_ids, its_top in parts
        ]


NO_SCORES = StepScores()


def columns_of(logits: Tensor, token_ids: Tensor, num_top: int) -> Columns:
    """Of equals the lowest id comes first. A token below 0 stands for none: what its row has is not
    to be reported."""
    logprobs = logits.float().log_softmax(dim=-1).nan_to_num(LEAST_LOGPROB, neginf=LEAST_LOGPROB)
    own = logprobs.gather(1, token_ids.clamp(min=0).unsqueeze(1)).squeeze(1)
    top_ids = highest(logprobs, min(num_top, logprobs.shape[1]))
    return own, top_ids, logprobs.gather(1, top_ids)


def _joined(parts: Sequence[Columns]) -> list[HostCopy]:
    return [HostCopy(torch.cat(each)) for each in zip(*parts, strict=True)]


def _scored_rows(plan: StepPlan) -> NDArray[np.int64]:
    """Behind which there are targets, of the rows that somebody asks for."""
    counts = [each.num_logits for each in plan.slices]
    firsts = np.cumsum([0, *counts[:-1]])
    return np.concatenate(
        [
            first + np.arange(len(each.score.targets))
            for each, first in zip(plan.slices, firsts, strict=True)
            if each.score
        ]
    )


def _parts(logits: Tensor, num_tops: Sequence[int | None]) -> Iterator[Tensor]:
    """The rows that are asked, so many at a time."""
    asked = [row for row, num_top in enumerate(num_tops) if num_top is not None]
    for start in range(0, len(asked), MAX_ROWS):
        rows = torch.tensor(asked[start : start + MAX_ROWS])
        yield upload(rows, logits.device)


def _report(num_top: int, own: float, top_ids: list[int], top: list[float]) -> TokenLogprobs:
    return TokenLogprobs.of(own, top_ids[:num_top], top[:num_top])
