"""Answers in one piece."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from fastapi import Response

from gateway.answer import Answer
from gateway.choice import Delta, Finished
from gateway.http.formats.answer_format import AnswerFormat
from gateway.http.formats.collected import CollectedChoice
from gateway.http.formats.envelope import Envelope, choice_json
from gateway.http.formats.logprobs import Pieces
from gateway.http.formats.usage import Json, UsageMeter, served_by_json


async def whole_answer(answer: Answer, form: AnswerFormat, envelope: Envelope) -> Response:
    """Collect an answer to its end."""
    usage = UsageMeter(answer)
    choices = [CollectedChoice() for _ in range(answer.num_choices)]
    logprobs: list[list[Pieces]] = [[] for _ in choices]
    async for events in answer:
        for event in events:
            usage.add(event)
            choices[event.choice_index].add(event)
            if isinstance(event, Delta) and event.scored:
                logprobs[event.choice_index].append(form.scored(event.scored))
        if answer.has_more:
            # A prompt's tokens come all at once, and are not to hold others up.
            await asyncio.sleep(0)
    ends = [_finished(choice) for choice in choices]
    written = [
        choice_json(index, form.whole(choice), form.logprobs(pieces), form.finish_reason(end))
        for index, (choice, pieces, end) in enumerate(zip(choices, logprobs, ends, strict=True))
    ]
    content = envelope.wrap(b",".join(written), usage=usage.json(), tandem=_served_by(ends))
    return Response(content, media_type="application/json")


def _finished(choice: CollectedChoice) -> Finished:
    if choice.finished is None:
        raise AssertionError("each choice of an answer ends with Finished, or all with an error")
    return choice.finished


def _served_by(ends: Sequence[Finished]) -> Json:
    """How the first choice was served, and each if there are several."""
    each = [served_by_json(end.served_by) for end in ends]
    return {**each[0], "choices": each} if len(each) > 1 else each[0]
