"""Grammars, compiled for a model's vocabulary, and where in them a sequence stands.

The gateway checks a client's grammar (`GrammarCompiler.check`); the engines compile it once more
(`matcher`) and follow it token by token. Since it is a client's, all of it is bounded: the text
(`grammar_text`), what compiling may cost (`grammar_trial`), a token's work (`LIMITS`).
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from functools import cached_property

import numpy as np
from llguidance import LLExecutor, LLMatcher, LLTokenizer
from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask_par
from numpy.typing import NDArray

from tandem.artifacts.grammar_errors import TOO_COMPLEX, explain
from tandem.artifacts.grammar_text import LIMITS, invalid, lark_text
from tandem.artifacts.grammar_trial import GrammarTrials
from tandem.artifacts.tokenizer import Tokenizer
from tandem.core.errors import InvalidRequest
from tandem.core.grammar import Grammar

MAX_COMPILED = 16
"""Compiled grammars that are kept, each at its start."""

TokenMask = NDArray[np.bool_]


class GrammarMatcher:
    """Where one sequence stands in its grammar. Not to be shared between threads.

    It allows the tokens that keep the text within the grammar; an end-of-sequence token exactly
    where the text is complete, and nothing else where it cannot go on, nor after that token.
    """

    def __init__(self, grammar: Grammar, state: LLMatcher, vocab_size: int) -> None:
        self.grammar = grammar
        self.num_tokens = 0
        self._state = state
        self._vocab_size = vocab_size

    def advance(self, token_ids: Sequence[int]) -> None:
        """Go on by generated tokens. Raises `InvalidRequest` if one of them is not allowed, or the
        grammar is too complex there; the matcher is of no use then."""
        # One by one: `consume_tokens` takes no end-of-sequence token where there is nothing else.
        if not all(map(self._state.consume_token, token_ids)):
            raise self._failure("does not allow what was generated")
        self.num_tokens += len(token_ids)

    def mask(self) -> TokenMask:
        """The allowed tokens [vocab_size], one at least. Raises `InvalidRequest` if there is none,
        or the grammar is too complex here."""
        return self._unpack(np.frombuffer(self._state.compute_bitmask(), np.int32))

    def _failure(self, what: str) -> InvalidRequest:
        if self._state.is_error() and explain(self._state.get_error()) == TOO_COMPLEX:
            what = f"{TOO_COMPLEX} for the text that was generated"
        return invalid(self.grammar, what)

    def _unpack(self, bits: NDArray[np.int32]) -> TokenMask:
        packed = bits.view(np.uint8)
        mask = np.unpackbits(packed, bitorder="little", count=self._vocab_size).view(np.bool_)
        if self._state.is_error() or not mask.any():
            raise self._failure("leaves no token of the model's vocabulary to go on with")
        return mask


class GrammarCompiler:
    """Compiles grammars for one model. May be used from several threads.

    Its vocabulary, half a second's work under the GIL, is made by `warm_up`, or when the first
    grammar is compiled. No method but `knows`, `forget` and `masks` is for a thread that others
    wait for.
    """

    def __init__(
        self, tokenizer: Tokenizer, vocab_size: int, eos_token_ids: frozenset[int]
    ) -> None:
        """`vocab_size` is that of the logits: it may be larger than the tokenizer's."""
        # Until the vocabulary is made of it: it takes 10 MiB.
        self._tokenizer: Tokenizer | None = tokenizer
        self._vocab_size = vocab_size
        self._num_ids = max(vocab_size, tokenizer.vocab_size)
        self._eos_token_ids = eos_token_ids
        self._trials = GrammarTrials(tokenizer.special_tokens, vocab_size)
        self._lock = threading.Lock()
        self._making = threading.Lock()
        # Or why there can be none.
        self._made: LLTokenizer | str = ""
        self._compiled: OrderedDict[Grammar, LLMatcher] = OrderedDict()

    def warm_up(self) -> None:
        """Make the vocabulary now. If there can be none, `matcher` says so."""
        self._vocabulary()

    def knows(self, grammar: Grammar) -> bool:
        """Whether a grammar has passed `check`, as far as that is remembered."""
        return self._trials.knows(grammar)

    def check(self, grammar: Grammar) -> None:
        """Raise `InvalidRequest` if the grammar is wrong, not supported, or too complex, and
        `ResourceExhausted` while too many others are being checked.

        What is new is compiled once in a process of its own, which takes some tenths of a second.
        """
        self._trials.check(grammar)

    def matcher(self, grammar: Grammar) -> GrammarMatcher:
        """A matcher at the grammar's start. Raises `InvalidRequest`.

        Only for what `check` has passed, here or in another process: a hostile grammar could end
        this one."""
        with self._lock:
            start = self._compiled.get(grammar)
        if start is None:
            start = self._compile(grammar)
        with self._lock:
            self._compiled[grammar] = start
            self._compiled.move_to_end(grammar)
            while len(self._compiled) > MAX_COMPILED:
                self._compiled.popitem(last=False)
            return GrammarMatcher(grammar, start.deep_copy(), self._vocab_size)

    def forget(self, grammar: Grammar) -> None:
        """Compile a grammar anew when it comes again."""
        with self._lock:
            self._compiled.pop(grammar, None)

    def masks(self, matchers: Sequence[GrammarMatcher]) -> list[TokenMask | InvalidRequest]:
        """The matchers' masks, or what their `mask` would raise: on all cores, and without the
        GIL."""
        if not matchers:
            return []
        bits = allocate_token_bitmask(len(matchers), self._num_ids)
        states = [(each._state, row) for row, each in enumerate(matchers)]
        fill_next_token_bitmask_par(self._executor, states, bits)
        return [_mask_or_error(each, row) for each, row in zip(matchers, bits, strict=True)]

    def _compile(self, grammar: Grammar) -> LLMatcher:
        vocabulary = self._vocabulary()
        if isinstance(vocabulary, str):
            raise invalid(grammar, vocabulary)
        start = LLMatcher(vocabulary, lark_text(grammar), log_level=0, limits=LIMITS[grammar.kind])
        if start.is_error():
            raise invalid(grammar, explain(start.get_error()))
        return start

    @cached_property
    def _executor(self) -> LLExecutor:
        return LLExecutor()

    def _vocabulary(self) -> LLTokenizer | str:
        with self._making:
            if self._tokenizer is not None:
                self._made = self._make_vocabulary(self._tokenizer)
                self._tokenizer = None
            return self._made

    def _make_vocabulary(self, tokenizer: Tokenizer) -> LLTokenizer | str:
        ends = sorted(each for each in self._eos_token_ids if each < tokenizer.vocab_size)
        if not ends:
            return "cannot be kept to: the model has no end-of-sequence token"
        try:
            return LLTokenizer(
                tokenizer.to_json(),
                n_vocab=self._num_ids,
                eos_token=ends,
            )
        except ValueError:
            return "cannot be kept to: the model's tokenizer is of a kind that is not supported"


def _mask_or_error(matcher: GrammarMatcher, bits: NDArray[np.int32]) -> TokenMask | InvalidRequest:
    try:
        return matcher._unpack(bits)
    except InvalidRequest as error:
        return error
