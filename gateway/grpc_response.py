"""An answer's events as `GenerateResponse`s."""

from __future__ import annotations

from gateway.answer import Answer
from gateway.choice import Delta, Finished, ScoredToken
from gateway.tokens import ServedBy, TokenBytes
from tandem.core.logprobs import TokenLogprobs
from tandem.v1 import inference_pb2, sampling_pb2


def started_to_wire(answer: Answer) -> inference_pb2.GenerateResponse:
    return inference_pb2.GenerateResponse(
        started=inference_pb2.GenerationStarted(
            request_id=answer.request_id,
            model=answer.model,
            num_prompt_tokens=answer.num_prompt_tokens,
            num_choices=answer.num_choices,
        )
    )


def event_to_wire(
    event: Delta | Finished, token_bytes: TokenBytes
) -> inference_pb2.GenerateResponse:
    if isinstance(event, Finished):
        return inference_pb2.GenerateResponse(finished=_finished(event))
    delta = inference_pb2.TokenDelta(
        choice_index=event.choice_index, token_ids=event.token_ids, text=event.text
    )
    if event.scored:
        prompt, own = event.scored[: event.num_prompt], event.scored[event.num_prompt :]
        delta.prompt.extend(_prompt_token(each, token_bytes) for each in prompt)
        delta.scored.extend(_scored(each, token_bytes) for each in own)
    for call in event.calls:
        delta.tool_calls.add(index=call.index, id=call.id, name=call.name, arguments=call.arguments)
    return inference_pb2.GenerateResponse(delta=delta)


def _finished(finished: Finished) -> inference_pb2.GenerationFinished:
    return inference_pb2.GenerationFinished(
        choice_index=finished.choice_index,
        finish_reason=sampling_pb2.FinishReason.ValueType(finished.finish_reason),
        num_tokens=finished.num_tokens,
        served_by=_served_by(finished.served_by),
        num_tool_calls=finished.num_calls,
    )


def _scored(scored: ScoredToken, token_bytes: TokenBytes) -> inference_pb2.ScoredToken:
    assert scored.logprobs
    return inference_pb2.ScoredToken(
        token=_likely(scored.token_id, scored.logprobs.logprob, token_bytes),
        text_offset=scored.text_offset,
        top=_top(scored.logprobs, token_bytes),
    )


def _prompt_token(scored: ScoredToken, token_bytes: TokenBytes) -> inference_pb2.PromptToken:
    logprobs = scored.logprobs
    return inference_pb2.PromptToken(
        token_id=scored.token_id,
        text=token_bytes(scored.token_id),
        text_offset=scored.text_offset,
        logprob=logprobs.logprob if logprobs else None,
        top=_top(logprobs, token_bytes) if logprobs else (),
    )


def _top(logprobs: TokenLogprobs, token_bytes: TokenBytes) -> list[inference_pb2.LikelyToken]:
    return [_likely(*each, token_bytes) for each in logprobs.top]


def _likely(token_id: int, logprob: float, token_bytes: TokenBytes) -> inference_pb2.LikelyToken:
    return inference_pb2.LikelyToken(token_id=token_id, text=token_bytes(token_id), logprob=logprob)


def _served_by(served_by: ServedBy) -> inference_pb2.ServedBy:
    return inference_pb2.ServedBy(
        prefill_worker=served_by.prefill_worker,
        decode_worker=served_by.decode_worker,
        kv_bytes=served_by.kv_bytes,
        num_cached_tokens=served_by.num_cached_tokens,
        mode=inference_pb2.ServingMode.ValueType(served_by.mode),
        num_preemptions=served_by.num_preemptions,
        num_losses=served_by.num_losses,
        num_bad_transfers=served_by.num_bad_transfers,
    )
