"""A `TokenService` that answers what a test tells it to."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from enum import Enum

from gateway.refusals import Refusals
from gateway.tokens import Ended, ServedBy, ServedModel, Token, TokenRequest
from tandem.core.errors import InvalidRequest
from tandem.core.grammar import Grammar
from tandem.core.logprobs import TokenLogprobs
from tandem.core.sequence import FinishReason

FIRST_LOGPROB = -0.5
SERVED_BY = ServedBy(
    "prefill-0",
    "decode-0",
    kv_bytes=4096,
    num_cached_tokens=2,
    num_preemptions=2,
    num_losses=1,
    num_bad_transfers=3,
)


class Pause(Enum):
    """Steps of a script that are no events."""

    FOREVER = 1
    A_MOMENT = 2


Step = int | Ended | Exception | Pause
Script = Callable[[TokenRequest], Sequence[Step]]


def ended(reason: FinishReason = FinishReason.LENGTH) -> Ended:
    return Ended(reason, SERVED_BY)


class ScriptedStream:
    def __init__(self, request: TokenRequest, steps: Sequence[Step]) -> None:
        self.cancelled = asyncio.Event()
        self.num_tokens = 0
        self._position = len(request.prompt_token_ids)
        self._num_logprobs = request.params.logprobs
        self._steps: list[Step | list[Token]] = list(steps)
        if request.params.prompt_logprobs is not None:
            self._steps.insert(0, self._scored(request.prompt_token_ids))
        self._is_there = False
        self._on_events: Callable[[], None] = lambda: None

    def subscribe(self, on_events: Callable[[], None]) -> None:
        self._on_events = on_events
        self._advance()

    @property
    def has_more(self) -> bool:
        return self._is_there

    def take(self) -> list[Token | Ended]:
        """One event, if it is there; the next one comes in the event loop's next turn."""
        assert not self.cancelled.is_set(), "take() after cancel()"
        if not self._is_there:
            return []
        self._is_there = False
        asyncio.get_running_loop().call_soon(self._advance)
        step = self._steps.pop(0)
        if isinstance(step, Exception):
            raise step
        if isinstance(step, Ended):
            return [step]
        if isinstance(step, list):
            return [*step]
        assert isinstance(step, int)
        self.num_tokens += 1
        self._position += 1
        return [Token(self._position - 1, step, self._logprobs(step))]

    def _advance(self) -> None:
        """Go on to the next event."""
        if self.cancelled.is_set() or not self._steps:
            return
        if isinstance(self._steps[0], Pause):
            if self._steps.pop(0) is Pause.A_MOMENT:
                asyncio.get_running_loop().call_later(0.01, self._advance)
            return
        self._is_there = True
        self._on_events()

    def _scored(self, prompt: Sequence[int]) -> list[Token]:
        """A prompt's tokens: all but the first as a generated one is."""
        scored = [Token(place, each, self._logprobs(each)) for place, each in enumerate(prompt)]
        return [scored[0]._replace(logprobs=None), *scored[1:]]

    def _logprobs(self, token_id: int) -> TokenLogprobs | None:
        """The token has `FIRST_LOGPROB`, and those before it in the vocabulary 1 less each."""
        if self._num_logprobs is None:
            return None
        steps = range(self._num_logprobs)
        top = ([token_id - i for i in steps], [FIRST_LOGPROB - i for i in steps])
        return TokenLogprobs.of(FIRST_LOGPROB, *top)

    def stop(self) -> Ended:
        self.cancelled.set()
        return ended(FinishReason.STOP)

    def cancel(self) -> None:
        self.cancelled.set()


class ScriptedGrammars:
    """Finds nothing wrong with any grammar, unless it is told to. It knows those that are
    `known`."""

    def __init__(self) -> None:
        self.refusal: InvalidRequest | None = None
        self.checked: list[Grammar] = []
        self.known: set[Grammar] = set()

    def knows(self, grammar: Grammar) -> bool:
        return grammar in self.known

    def check(self, grammar: Grammar) -> None:
        self.checked.append(grammar)
        if self.refusal is not None:
            raise self.refusal


class ScriptedService:
    """`script` makes the steps of each request; `refusal` is what `submit` raises, if anything, and
    `no_room` what `check_room` does. `being_read` are requests that are, by tenant;
    `refused` those that it was told of, by reason."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.refusal: Exception | None = None
        self.no_room: Exception | None = None
        self.ready = True
        self.draining = False
        self.model: ServedModel | None = ServedModel(
            "mock",
            vocab_size=260,
            max_model_len=4096,
            max_sequence_tokens=2048,
            block_size=16,
            eos_token_ids=frozenset({256}),
        )
        self.being_read = Counter[str]()
        self.refused = Counter[str]()
        self.refusals = Refusals(self.refused)
        self.requests: list[TokenRequest] = []
        self.streams: list[ScriptedStream] = []

    def check_room(self, tenant: str, num_choices: int, deadline_s: float) -> None:
        if self.no_room is not None:
            raise self.no_room

    @contextmanager
    def reading(self, tenant: str, num_requests: int) -> Iterator[None]:
        self.being_read[tenant] += num_requests
        try:
            yield
        finally:
            self.being_read[tenant] -= num_requests

    def submit(self, request: TokenRequest) -> ScriptedStream:
        if self.refusal is not None:
            raise self.refusal
        self.requests.append(request)
        self.streams.append(ScriptedStream(request, self.script(request)))
        return self.streams[-1]

    def together(self) -> AbstractContextManager[None]:
        return nullcontext()

    async def generated(self, num_tokens: int) -> None:
        """Wait until the first request has this many tokens."""
        while not self.streams or self.streams[0].num_tokens < num_tokens:
            await asyncio.sleep(0.005)
