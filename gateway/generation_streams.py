"""What goes out to clients: each generation's events, kept until its reader takes them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

import structlog

from gateway.generation import Generation
from gateway.request_log import log_end
from gateway.request_metrics import RequestMetrics, TokenTimes
from gateway.tokens import MAX_TAKEN, Ended, Event, ScoredPrompt, Token, size_of
from tandem.core.errors import TandemError

log = structlog.get_logger(__name__)


class GenerationControl(Protocol):
    """Ends generations for their readers."""

    def stop_generation(self, generation: Generation) -> Ended:
        """Its text is complete."""
        ...

    def cancel(self, generation: Generation) -> None:
        """Nobody waits for it. Idempotent."""
        ...


class GenerationStream:
    """A `TokenStream`: a generation's events, kept for its reader. Bounded by `max_tokens`, and of
    its prompt by what a request may ask for."""

    def __init__(self, control: GenerationControl, generation: Generation) -> None:
        self._control = control
        self.generation = generation
        self.times = TokenTimes()
        # What is left of the prompt is taken before the events.
        self._prompt: ScoredPrompt | None = None
        self._num_prompt_taken = 0
        self._events: deque[Token | Ended] = deque()
        self._error: TandemError | None = None
        self._on_events: Callable[[], None] | None = None
        # Whether `tell` is to come, and whether no event is.
        self._is_untold = False
        self._is_over = False

    def put(self, event: Event) -> bool:
        """Keep an event; whether there is a reader to be told of it, who took all before."""
        is_first = not self._events and not self._prompt and self._on_events is not None
        self._is_untold |= is_first
        self._is_over |= not isinstance(event, Token | ScoredPrompt)
        if isinstance(event, TandemError):
            self._error = event
        elif isinstance(event, ScoredPrompt):
            self._prompt = event
        else:
            self._events.append(event)
        return is_first

    def tell(self) -> None:
        """Call the reader, if there is one by now."""
        self._is_untold = False
        if self._on_events is not None:
            self._on_events()
        if self._is_over:
            self._leave_reader()

    def subscribe(self, on_events: Callable[[], None]) -> None:
        self._on_events = on_events
        if self.has_more:
            on_events()

    @property
    def has_more(self) -> bool:
        return bool(self._events) or self._prompt is not None or self._error is not None

    def take(self) -> Sequence[Token | Ended]:
        if self._prompt:
            return self._take_prompt(self._prompt)
        num = len(self._events)
        if num > 1:
            # Its tokens have as many log-probabilities each.
            num = min(num, MAX_TAKEN // size_of(self._events[0]))
        # Of very many, since their reader is slow, what is left is not touched.
        events = [self._events.popleft() for _ in range(num)]
        if self._is_over:
            self._leave_reader()
        if not events and self._error is not None:
            error, self._error = self._error, None
            try:
                raise error
            finally:
                # Which has this frame.
                del error
        return events

    def _take_prompt(self, prompt: ScoredPrompt) -> Sequence[Token]:
        start = self._num_prompt_taken
        self._num_prompt_taken += MAX_TAKEN // (1 + prompt.logprobs.num_top)
        if self._num_prompt_taken >= len(prompt.token_ids):
            self._prompt = None
        return prompt.tokens(start, self._num_prompt_taken)

    def stop(self) -> Ended:
        ended = self._control.stop_generation(self.generation)
        self._leave_reader()
        return ended

    def cancel(self) -> None:
        self._control.cancel(self.generation)
        self._leave_reader()

    def _leave_reader(self) -> None:
        """There will be nothing to call it for, once it was told of the end. Each has the other:
        they would stay, and the prompt with them, until the garbage collector comes, which may be
        many requests later."""
        if not self._is_untold:
            self._on_events = None


class GenerationStreams:
    """Those of the generations that have not ended: as many as its length says. Lives on the event
    loop."""

    def __init__(
        self,
        control: GenerationControl,
        metrics: RequestMetrics,
        clock: Callable[[], float],
        model_name: str,
    ) -> None:
        """`metrics` count what goes out, at the `clock`'s times. `model_name` is for the log."""
        self._control = control
        self._metrics = metrics
        self._clock = clock
        self._model_name = model_name
        self._streams: dict[Generation, GenerationStream] = {}
        # Those whose readers are told of something in the event loop's next turn.
        self._untold: list[GenerationStream] = []

    def __len__(self) -> int:
        return len(self._streams)

    def open(self, generation: Generation) -> GenerationStream:
        """The stream of a generation that was let in."""
        stream = self._streams[generation] = GenerationStream(self._control, generation)
        return stream

    def emit(self, generation: Generation, event: Event) -> None:
        """Hand a generation's event to its reader; all but tokens are its end. What goes wrong with
        that costs its own request alone: others have events in the same turn."""
        try:
            self.hand_on(generation, event)
        except Exception:
            log.exception("event failed", request_id=generation.request.request_id)
            # Not now: what was decided before has yet to be handed on.
            asyncio.get_running_loop().call_soon(self._control.cancel, generation)

    def hand_on(self, generation: Generation, event: Event) -> None:
        """As `emit`, but raises whatever goes wrong: the reader has the event by then."""
        if isinstance(event, Token):
            stream = self._streams[generation]
            self._put(stream, event)
            self._metrics.token(generation, stream.times, self._clock())
            return
        if isinstance(event, ScoredPrompt):
            self._put(self._streams[generation], event)
            return
        stream = self._streams.pop(generation)
        self._put(stream, event)
        self._metrics.ended(generation, stream.times, event, self._clock())
        generation.request.trace.choice_ended(generation, stream.times, event)
        log_end(generation, stream.times, event, self._model_name)

    def _put(self, stream: GenerationStream, event: Event) -> None:
        if stream.put(event):
            if not self._untold:
                asyncio.get_running_loop().call_soon(self._tell_readers)
            self._untold.append(stream)

    def _tell_readers(self) -> None:
        """Call those that have something to take: one call of the event loop for all, since one
        for each would cost as much as their work. What comes meanwhile is for its next turn."""
        untold, self._untold = self._untold, []
        for stream in untold:
            try:
                stream.tell()
            except Exception:
                # It costs its own reader alone: nobody would tell the others a second time.
                log.exception("reader failed", request_id=stream.generation.request.request_id)
                stream.cancel()
