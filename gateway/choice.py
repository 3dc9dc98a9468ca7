"""One choice of a request: its tokens made into what its client is told."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

from gateway.text import PromptPlaces, TokenText
from gateway.tokens import Ended, ServedBy, Token, TokenStream
from gateway.tools.parser import Parsed, ToolCallParser
from gateway.tools.tool import ToolCallDelta
from tandem.core.logprobs import TokenLogprobs
from tandem.core.sequence import FinishReason


class ScoredToken(NamedTuple):
    """A token with its log-probabilities, which only the first of a prompt has none of.
    `text_offset` is where its text begins in the choice's, in characters."""

    token_id: int
    logprobs: TokenLogprobs | None
    text_offset: int


class Delta(NamedTuple):
    """New tokens, text and pieces of calls of a choice. The text of a token may be held back until
    it is certain; its log-probabilities, `scored` if they were asked for, come with the token. The
    first `num_prompt` of these are the prompt's: they were not generated, and are no new tokens."""

    choice_index: int
    token_ids: tuple[int, ...]
    text: str
    scored: tuple[ScoredToken, ...] = ()
    calls: tuple[ToolCallDelta, ...] = ()
    num_prompt: int = 0


class Echo(NamedTuple):
    """A prompt that its answer begins with. The first `num_tokens` of the stream are its, and have
    these `places` in the text; none, if only the text is shown."""

    text: str = ""
    num_tokens: int = 0
    places: PromptPlaces | None = None


class Finished(NamedTuple):
    """The end of a choice. `num_tokens` were generated, up to the one that completed a stop
    string."""

    choice_index: int
    finish_reason: FinishReason
    num_tokens: int
    served_by: ServedBy
    num_calls: int = 0


NO_ECHO = Echo()


class Choice:
    """Turns the events of one token stream into `Delta`s and a `Finished`."""

    def __init__(
        self,
        index: int,
        tokens: TokenStream,
        text: TokenText,
        calls: ToolCallParser | None = None,
        echo: Echo = NO_ECHO,
        first: Choice | None = None,
    ) -> None:
        """Of several choices of an echoed prompt only the stream of the `first` has the prompt's
        tokens: the others tell what that one has told."""
        self.index = index
        self.tokens = tokens
        self.ended = False
        self.followers: list[Choice] = []
        # What the first has told of the prompt, and this one has not.
        self._prompt: deque[Delta] = deque()
        self._num_prompt_awaited = 0
        if first:
            first.followers.append(self)
            self._num_prompt_awaited = echo.num_tokens
        self._text = text
        self._calls = calls
        self._echo = echo
        self._num_tokens = 0

    def opening(self) -> list[Delta]:
        """What comes before the first token."""
        return [Delta(self.index, (), self._echo.text)] if self._echo.text else []

    @property
    def awaits_prompt(self) -> bool:
        """Whether its prompt's tokens are to be told before those of its stream."""
        return self._num_prompt_awaited > 0

    def take_prompt(self) -> list[Delta]:
        """What comes next of these, if the first has told it."""
        if not self._prompt:
            return []
        delta = self._prompt.popleft()
        self._num_prompt_awaited -= delta.num_prompt
        return [delta]

    def take(self, events: Sequence[Token | Ended]) -> list[Delta | Finished]:
        """What the client is told of a stream's next events: of tokens that come together, one
        delta. Not to be called once the choice has `ended`."""
        tokens = [event for event in events if isinstance(event, Token)]
        told: list[Delta | Finished] = [self._on_tokens(tokens)] if tokens else []
        if self._complete:
            told += self._finish(self.tokens.stop())
        elif isinstance(ended := events[-1], Ended):
            told += self._on_ended(ended)
        return told

    def cancel(self) -> None:
        """End it on all workers, if it has not ended; idempotent."""
        if not self.ended:
            self.ended = True
            self.tokens.cancel()

    @property
    def _complete(self) -> bool:
        """Whether what was generated further would not be wanted."""
        return self._text.stopped or (self._calls is not None and self._calls.done)

    def _on_tokens(self, tokens: Sequence[Token]) -> Delta:
        """Take tokens up to the one that completes the choice."""
        told = [self._on_token(token) for token in tokens if not self._complete]
        delta = told[0] if len(told) == 1 else _merged(told)
        if self.followers and (num_prompt := delta.num_prompt):
            scored = delta.scored[:num_prompt]
            for each in self.followers:
                each._prompt.append(Delta(each.index, (), "", scored, num_prompt=num_prompt))
        return delta

    def _on_token(self, token: Token) -> Delta:
        if token.position < self._echo.num_tokens:
            return self._on_prompt_token(token)
        self._num_tokens += 1
        offset = len(self._echo.text) + self._text.num_chars
        text = self._text.push(token.token_id)
        return self._delta((token.token_id,), text, _scored(token, offset))

    def _on_prompt_token(self, token: Token) -> Delta:
        assert self._echo.places
        place = self._echo.places.push(token.token_id)
        scored = (ScoredToken(token.token_id, token.logprobs, place),)
        return Delta(self.index, (), "", scored, num_prompt=1)

    def _on_ended(self, ended: Ended) -> list[Delta | Finished]:
        text = self._text.flush()
        rest = [self._delta((), text)] if text else []
        if self._text.stopped:
            ended = Ended(FinishReason.STOP, ended.served_by)
        return [*rest, *self._finish(ended)]

    def _finish(self, ended: Ended) -> list[Delta | Finished]:
        self.ended = True
        rest = self._calls.flush() if self._calls else Parsed()
        finished = Finished(
            self.index,
            ended.finish_reason,
            self._num_tokens,
            ended.served_by,
            self._calls.num_calls if self._calls else 0,
        )
        if rest.content or rest.calls:
            return [Delta(self.index, (), rest.content, (), rest.calls), finished]
        return [finished]

    def _delta(
        self, token_ids: tuple[int, ...], text: str, scored: tuple[ScoredToken, ...] = ()
    ) -> Delta:
        if self._calls is None:
            return Delta(self.index, token_ids, text, scored)
        parsed = self._calls.push(text)
        return Delta(self.index, token_ids, parsed.content, scored, parsed.calls)


def _merged(deltas: Sequence[Delta]) -> Delta:
    """The deltas of tokens that came together as one."""
    return Delta(
        deltas[0].choice_index,
        tuple(chain.from_iterable(each.token_ids for each in deltas)),
        "".join(each.text for each in deltas),
        tuple(chain.from_iterable(each.scored for each in deltas)),
        tuple(chain.from_iterable(each.calls for each in deltas)),
        sum(each.num_prompt for each in deltas),
    )


def _scored(token: Token, text_offset: int) -> tuple[ScoredToken, ...]:
    if token.logprobs is None:
        return ()
    return (ScoredToken(token.token_id, token.logprobs, text_offset),)
