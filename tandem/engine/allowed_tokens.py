"""Which tokens a step may sample at all: what grammars and `min_tokens` leave of the vocabulary."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tandem.artifacts.grammars import GrammarCompiler, TokenMask
from tandem.artifacts.tokenizer import Tokenizer
from tandem.core.errors import InvalidRequest, TandemError
from tandem.core.plan import SampleSpec, SequenceSlice, StepPlan
from tandem.core.sampling_params import SamplingParams
from tandem.core.worker import ModelInfo
from tandem.engine.grammar_states import GrammarStates, Place


@dataclass(frozen=True, slots=True)
class Allowed:
    """Some tokens of a vocabulary: those of `mask`, if there is one, without those in `barred`."""

    mask: TokenMask | None = None
    barred: tuple[int, ...] = ()

    @property
    def is_all(self) -> bool:
        return self.mask is None and not self.barred

    def as_mask(self, vocab_size: int) -> TokenMask:
        """Of each token whether it is one of them."""
        mask = np.ones(vocab_size, np.bool_) if self.mask is None else self.mask.copy()
        mask[_below(self.barred, vocab_size)] = False
        return mask

    def token_ids(self, vocab_size: int) -> NDArray[np.int64]:
        """The ids, ascending."""
        (ids,) = self.as_mask(vocab_size).nonzero()
        return ids

    def is_empty(self, vocab_size: int) -> bool:
        barred = _below(self.barred, vocab_size)
        if self.mask is None:
            return len(barred) == vocab_size
        return bool(self.mask.sum() == self.mask[barred].sum())


ALL = Allowed()
Masks = list[TokenMask | TandemError]


class AllowedTokens:
    """Works out what each slice of a step may sample. Grammars are followed on a thread of their
    own, while the step computes."""

    def __init__(self, model: ModelInfo, open_tokenizer: Callable[[], Tokenizer]) -> None:
        """`open_tokenizer` is called by `warm_up`, or when the first grammar comes."""
        self._model = model
        self._states = GrammarStates(
            lambda: GrammarCompiler(open_tokenizer(), model.vocab_size, model.eos_token_ids)
        )
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="grammars")

    def warm_up(self) -> None:
        """Make ready for grammars. Where that cannot be, whoever brings one is told."""
        with suppress(TandemError):
            self._states.warm_up()

    def prepare(self, sequence_id: int, params: SamplingParams) -> None:
        """Compile a sequence's grammar, if it has one, ahead of its first step. Callable from any
        thread. Raises `TandemError`."""
        if params.grammar is not None:
            self._states.prepare(sequence_id, params.grammar)

    def start(self, plan: StepPlan) -> Callable[[], list[Allowed | TandemError]]:
        """Start on a step. The call that is returned waits for what the slices that sample may
        sample, in the plan's order, or why one of them can sample nothing."""
        asked = [(each, each.sample) for each in plan.slices if each.sample is not None]
        if not any(spec.params.grammar or spec.params.min_tokens for _, spec in asked):
            return lambda: [ALL] * len(asked)
        places = [_place(each, spec) for each, spec in asked]
        masks: Future[Masks] | None = None
        if any(places):
            masks = self._thread.submit(self._states.masks, [each for each in places if each])

        def finish() -> list[Allowed | TandemError]:
            computed = iter(masks.result() if masks else ())
            return [
                self._allowed(spec, next(computed) if place else None)
                for (_, spec), place in zip(asked, places, strict=True)
            ]

        return finish

    def close(self) -> None:
        self._thread.shutdown()

    def _allowed(
        self, spec: SampleSpec, mask: TokenMask | TandemError | None
    ) -> Allowed | TandemError:
        if isinstance(mask, TandemError):
            return mask
        barred = barred_tokens(spec.params, len(spec.token_ids), self._model.eos_token_ids)
        allowed = Allowed(mask, barred)
        if barred and allowed.is_empty(self._model.vocab_size):
            return InvalidRequest(
                f"after {len(spec.token_ids)} tokens there is none left but to end, and min_tokens"
                f" asks for {spec.params.min_tokens}",
                param="min_tokens",
            )
        return allowed


def barred_tokens(
    params: SamplingParams, num_generated: int, eos_token_ids: frozenset[int]
) -> tuple[int, ...]:
    """The tokens, ascending, that would end a sequence before it has its `min_tokens`."""
    if num_generated >= params.min_tokens:
        return ()
    ends = params.stop_token_ids if params.ignore_eos else params.stop_token_ids | eos_token_ids
    return tuple(sorted(ends))


def _below(token_ids: tuple[int, ...], vocab_size: int) -> list[int]:
    return [each for each in token_ids if each < vocab_size]


def _place(each: SequenceSlice, spec: SampleSpec) -> Place | None:
    grammar = spec.params.grammar
    return Place(each.sequence_id, grammar, spec.token_ids) if grammar else None
