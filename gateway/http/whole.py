"""Answers in one piece."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import chain

from fastapi import Response

from gateway.answer import Answer
from gateway.choice import Delta, Finished
from gateway.http.formats.answer_format import AnswerFormat
from gateway.http.formats.collected import CollectedChoice
from gateway.http.formats.envelope import Envelope, after_choices, choice_json
from gateway.http.formats.logprobs import Pieces
from gateway.http.formats.usage import Json, UsageMeter, served_by_json
from gateway.http.parts import PartedResponse, in_parts

Collected = deque[tuple[CollectedChoice, list[Pieces]]]
"""The choices, and what is said of their tokens."""


async def whole_answer(answer: Answer, form: AnswerFormat, envelope: Envelope) -> Response:
    """Collect an answer to its end."""
    usage = UsageMeter(answer)
    collected = Collected((CollectedChoice(), []) for _ in range(answer.num_choices))
    async for events in answer:
        for event in events:
            usage.add(event)
            choice, pieces = collected[event.choice_index]
            choice.add(event)
            if isinstance(event, Delta) and event.scored:
                pieces.append(form.scored(event.scored))
        if answer.has_more:
            # A prompt's tokens come all at once, and are not to hold others up.
            await asyncio.sleep(0)
    ends = [_finished(choice) for choice, _ in collected]
    behind = after_choices(usage=usage.json(), tandem=_served_by(ends))
    written = chain((envelope.head,), _choices_json(collected, form), (behind,))
    return PartedResponse(await in_parts(written))


def _choices_json(collected: Collected, form: AnswerFormat) -> Iterator[bytes]:
    """The choices' pieces. Each choice is let go of when it is written: to free all of them takes
    its time as well."""
    for index in range(len(collected)):
        choice, pieces = collected.popleft()
        if index:
            yield b","
        reason = form.finish_reason(_finished(choice))
        before, behind = choice_json(index, form.whole(choice), reason)
        yield before
        yield from form.logprobs(pieces)
        yield behind


def _finished(choice: CollectedChoice) -> Finished:
    if choice.finished is None:
        raise AssertionError("each choice of an answer ends with Finished, or all with an error")
    return choice.finished


def _served_by(ends: Sequence[Finished]) -> Json:
    """How the first choice was served, and each if there are several."""
    each = [served_by_json(end.served_by) for end in ends]
    return {**each[0], "choices": each} if len(each) > 1 else each[0]
