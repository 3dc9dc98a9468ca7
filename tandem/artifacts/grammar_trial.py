"""Compiling a client's grammar for the first time, in a process of its own.

Some short grammars (a chain of thousands of rules, a conjunction of dozens of patterns) overflow
llguidance's stack or keep it busy for ever, and either would take its process along. So a new one
is compiled in a child first, with little time, memory and stack, for a vocabulary of bytes. What
passes there takes no more of them elsewhere.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future
from time import monotonic

from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

from tandem.artifacts.grammar_errors import TOO_COMPLEX, explain
from tandem.artifacts.grammar_text import LIMITS, invalid, lark_text
from tandem.core.errors import ResourceExhausted
from tandem.core.grammar import Grammar, GrammarKind

MAX_CPU_S = 0.3
MAX_MEMORY_BYTES = 2**30
STACK_BYTES = 2**20
"""Less than any thread's that compiles a grammar which has passed."""

MAX_AT_ONCE = max(1, min(4, len(os.sched_getaffinity(0)) - 1))
"""Fewer than there are cores: workers run on them, and tokens come before checks."""
NICENESS = 5
MAX_WAIT_S = 10.0
"""For a place and the trial together, by the clock: the machine may be busy."""
MAX_VERDICTS = 256

NUM_BYTES = 256

# Nice before it imports anything: that is most of what an honest grammar's trial costs.
CHILD = f"import os; os.nice({NICENESS}); from {__name__} import main; main()"


class GrammarTrials:
    """Tries grammars and remembers how it went. May be used from several threads."""

    def __init__(self, special_tokens: Sequence[str], vocab_size: int) -> None:
        self._special_tokens = list(special_tokens)
        self._vocab_size = vocab_size
        self._places = threading.BoundedSemaphore(MAX_AT_ONCE)
        self._lock = threading.Lock()
        # What is wrong with it, "" if nothing.
        self._verdicts: OrderedDict[Grammar, str] = OrderedDict()
        self._under_way: dict[Grammar, Future[str]] = {}

    def knows(self, grammar: Grammar) -> bool:
        """Whether `check` is known to have nothing against a grammar."""
        return self._known(grammar) == ""

    def check(self, grammar: Grammar) -> None:
        """Raise `InvalidRequest` if the grammar is none, or does not compile as it must. That it is
        none is soon found anew, and not worth remembering."""
        verdict = self._known(grammar)
        if verdict is None:
            verdict = self._tried(grammar, lark_text(grammar))
        if verdict:
            raise invalid(grammar, verdict)

    def _known(self, grammar: Grammar) -> str | None:
        """The verdict, if there is one. What is asked of again is remembered longest."""
        with self._lock:
            if grammar in self._verdicts:
                self._verdicts.move_to_end(grammar)
            return self._verdicts.get(grammar)

    def _tried(self, grammar: Grammar, text: str) -> str:
        """The verdict of one trial, however many ask for it at a time."""
        with self._lock:
            known = self._verdicts.get(grammar)
            if known is not None:
                return known
            others = self._under_way.get(grammar)
            if others is None:
                own = self._under_way[grammar] = Future[str]()
        if others is not None:
            return others.result()
        try:
            own.set_result(self._try(grammar.kind, text))
        except BaseException as error:
            own.set_exception(error)
        with self._lock:
            del self._under_way[grammar]
            if own.exception() is None:
                self._remember(grammar, own.result())
        return own.result()

    def _remember(self, grammar: Grammar, verdict: str) -> None:
        self._verdicts[grammar] = verdict
        while len(self._verdicts) > MAX_VERDICTS:
            self._verdicts.popitem(last=False)

    def _try(self, kind: GrammarKind, text: str) -> str:
        deadline = monotonic() + MAX_WAIT_S
        if not self._places.acquire(timeout=MAX_WAIT_S):
            raise ResourceExhausted("too many grammars are being checked", retry_after_s=1.0)
        try:
            child = subprocess.run(
                [sys.executable, "-c", CHILD],
                input=json.dumps([kind, text, self._special_tokens, self._vocab_size]).encode(),
                capture_output=True,
                timeout=max(0.0, deadline - monotonic()),
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            # Its time is up by the clock, not by its own: the machine is busy.
            raise ResourceExhausted(
                "checking the grammar took too long", retry_after_s=1.0
            ) from error
        finally:
            self._places.release()
        if child.returncode or not child.stdout:
            return TOO_COMPLEX
        message = json.loads(child.stdout)
        return explain(message) if message else ""


class _ByteTokenizer:
    """A tokenizer as llguidance wants it: a token for each byte, and the special ones."""

    bos_token_id = None
    eos_token_id = NUM_BYTES

    def __init__(self, special_tokens: Sequence[str]) -> None:
        names = ["end of sequence", *special_tokens]
        self.tokens = [bytes([each]) for each in range(NUM_BYTES)]
        self.tokens += [name.encode() for name in names]
        self.special_token_ids = range(NUM_BYTES, len(self.tokens))

    def __call__(self, text: bytes) -> list[int]:
        return list(text)


def main() -> None:
    """The child: reads a grammar's kind and text, its model's special tokens and vocabulary size
    from standard input, and writes what llguidance has against it to standard output."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    kind, text, special_tokens, vocab_size = json.load(sys.stdin)
    tokenizer = TokenizerWrapper(_ByteTokenizer(special_tokens))
    vocabulary = LLTokenizer(tokenizer, n_vocab=max(vocab_size, len(tokenizer.tokens)))
    threading.stack_size(STACK_BYTES)
    thread = threading.Thread(target=_compile, args=(vocabulary, text, GrammarKind(kind)))
    # From here on, by the time that it computes, not by the clock. The signal ends the process.
    signal.setitimer(signal.ITIMER_PROF, MAX_CPU_S)
    thread.start()
    thread.join()


def _compile(vocabulary: LLTokenizer, text: str, kind: GrammarKind) -> None:
    matcher = LLMatcher(vocabulary, text, log_level=0, limits=LIMITS[kind])
    if not matcher.is_error():
        matcher.compute_bitmask()
    json.dump(matcher.get_error(), sys.stdout)
