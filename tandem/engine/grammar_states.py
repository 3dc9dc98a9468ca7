"""Where the sequences of an engine stand in their grammars."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tandem.artifacts.grammars import GrammarCompiler, GrammarMatcher, TokenMask
from tandem.core.errors import TandemError
from tandem.core.grammar import Grammar

MAX_KEPT = 512
"""Sequences whose place is kept, or twice as many as a step has, if that is more: none that is in
each step is to be dropped for those that are prepared meanwhile. One that was dropped is followed
again from its first token."""


@dataclass(frozen=True, slots=True)
class Place:
    """A sequence, its grammar, and the tokens it has generated."""

    sequence_id: int
    grammar: Grammar
    token_ids: Sequence[int]


class GrammarStates:
    """What may follow at a place is a function of the grammar and the tokens. What is kept here
    only saves going through all tokens again at every step, as is done for a sequence that another
    engine has begun. `masks` is for one thread, the others for any.
    """

    def __init__(self, make_compiler: Callable[[], GrammarCompiler]) -> None:
        """`make_compiler` is called by `warm_up`, or when the first grammar comes."""
        self._make_compiler = make_compiler
        self._made: GrammarCompiler | None = None
        self._lock = threading.Lock()
        # The sequence that stepped longest ago first.
        self._kept: OrderedDict[int, GrammarMatcher] = OrderedDict()
        self._most_kept = MAX_KEPT

    def warm_up(self) -> None:
        """Make the compiler, and its vocabulary. Raises `TandemError`."""
        self._compiler().warm_up()

    def prepare(self, sequence_id: int, grammar: Grammar) -> None:
        """Compile a sequence's grammar, and work out what it may begin with. Raises `TandemError`
        if that is nothing, or the grammar does not compile."""
        matcher = self._compiler().matcher(grammar)
        matcher.mask()
        self._keep(sequence_id, matcher)

    def masks(self, places: Sequence[Place]) -> list[TokenMask | TandemError]:
        """What may follow at each place, or why nothing may."""
        self._most_kept = max(MAX_KEPT, 2 * len(places))
        try:
            compiler = self._compiler()
        except TandemError as error:
            return [error for _ in places]
        found = [self._find(compiler, each) for each in places]
        matchers = [each for each in found if isinstance(each, GrammarMatcher)]
        computed = iter(compiler.masks(matchers))
        masks = [next(computed) if isinstance(each, GrammarMatcher) else each for each in found]
        return [
            self._once_more(compiler, place) if isinstance(mask, TandemError) else mask
            for place, mask in zip(places, masks, strict=True)
        ]

    def _compiler(self) -> GrammarCompiler:
        with self._lock:
            if self._made is None:
                self._made = self._make_compiler()
            return self._made

    def _find(self, compiler: GrammarCompiler, place: Place) -> GrammarMatcher | TandemError:
        """The sequence's matcher, brought to its last token."""
        try:
            matcher = self._take(place.sequence_id)
            if matcher is None or matcher.num_tokens > len(place.token_ids):
                matcher = compiler.matcher(place.grammar)
            matcher.advance(place.token_ids[matcher.num_tokens :])
        except TandemError as error:
            return error
        self._keep(place.sequence_id, matcher)
        return matcher

    def _once_more(self, compiler: GrammarCompiler, place: Place) -> TokenMask | TandemError:
        """What is compiled grows with all sequences that use it, up to a limit: what failed there
        is followed again from its start, and if need be in what is compiled for it alone."""
        self._take(place.sequence_id)
        mask = self._mask(compiler, place)
        if isinstance(mask, TandemError):
            compiler.forget(place.grammar)
            mask = self._mask(compiler, place)
        if isinstance(mask, TandemError):
            compiler.forget(place.grammar)
        return mask

    def _mask(self, compiler: GrammarCompiler, place: Place) -> TokenMask | TandemError:
        found = self._find(compiler, place)
        mask = compiler.masks([found])[0] if isinstance(found, GrammarMatcher) else found
        if isinstance(mask, TandemError):
            self._take(place.sequence_id)
        return mask

    def _take(self, sequence_id: int) -> GrammarMatcher | None:
        with self._lock:
            return self._kept.pop(sequence_id, None)

    def _keep(self, sequence_id: int, matcher: GrammarMatcher) -> None:
        with self._lock:
            self._kept[sequence_id] = matcher
            while len(self._kept) > self._most_kept:
                self._kept.popitem(last=False)
