"""Which tokens come in a sequence's text, and how often: what penalties look at."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tandem.core.plan import SampleSpec, SequenceSlice
from tandem.core.sampling_params import SamplingParams

MAX_KEPT = 256
"""Sequences whose counts are kept, if no step has more; one that was dropped is counted again."""

FIRST_ROOM = 64


class TokenCounts:
    """The distinct tokens of a sequence's prompt, if these are penalised, and of those that it has
    generated; and how often it has generated each."""

    def __init__(self, spec: SampleSpec) -> None:
        self._spec = spec
        self._num_counted = 0
        self._num_distinct = 0
        self._token_ids = np.empty(FIRST_ROOM, np.int64)
        self._counts = np.empty(FIRST_ROOM, np.float64)
        # Where a token is in these.
        self._places: dict[int, int] = {}
        if spec.params.repetition_penalty != 1.0:
            for token_id in dict.fromkeys(spec.prompt_token_ids):
                self._add(token_id, 0)
        self.advance()

    @property
    def distinct(self) -> NDArray[np.int64]:
        """All of them."""
        return self._token_ids[: self._num_distinct]

    @property
    def generated(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Those that were generated, and how often each was."""
        counts = self._counts[: self._num_distinct]
        comes = counts > 0
        return self.distinct[comes], counts[comes]

    def fits(self, spec: SampleSpec) -> bool:
        """Whether what is counted is the beginning of this text: of the same lists, which only
        grow."""
        return spec is self._spec and len(spec.token_ids) >= self._num_counted

    def advance(self) -> None:
        """Count the tokens that were generated since."""
        new = self._spec.token_ids[self._num_counted :]
        self._num_counted += len(new)
        for token_id, count in Counter(new).items():
            self._add(token_id, count)

    def _add(self, token_id: int, count: int) -> None:
        place = self._places.setdefault(token_id, self._num_distinct)
        if place < self._num_distinct:
            self._counts[place] += count
            return
        if place == len(self._token_ids):
            self._token_ids = np.resize(self._token_ids, 2 * place)
            self._counts = np.resize(self._counts, 2 * place)
        self._token_ids[place], self._counts[place] = token_id, count
        self._num_distinct += 1


class SequenceCounts:
    """The counts of an engine's sequences. Kept, so that a step does not go through all tokens of
    each again: what they are is a function of the text alone."""

    def __init__(self) -> None:
        # The sequence that stepped longest ago first.
        self._kept: OrderedDict[int, TokenCounts] = OrderedDict()

    def of(self, slices: Sequence[SequenceSlice]) -> list[TokenCounts | None]:
        """Of the slices that sample, in their order; None for one that has no penalties."""
        asked = [(each.sequence_id, each.sample) for each in slices if each.sample is not None]
        found = [
            self._advanced(sequence_id, spec) if is_penalised(spec.params) else None
            for sequence_id, spec in asked
        ]
        while len(self._kept) > max(MAX_KEPT, len(slices)):
            self._kept.popitem(last=False)
        return found

    def _advanced(self, sequence_id: int, spec: SampleSpec) -> TokenCounts:
        counts = self._kept.pop(sequence_id, None)
        if counts is not None and counts.fits(spec):
            counts.advance()
        else:
            counts = TokenCounts(spec)
        if spec.token_ids:
            # A prompt alone may be all that is sampled behind here.
            self._kept[sequence_id] = counts
        return counts


def is_penalised(params: SamplingParams) -> bool:
    return bool(
        params.presence_penalty or params.frequency_penalty or params.repetition_penalty != 1.0
    )
