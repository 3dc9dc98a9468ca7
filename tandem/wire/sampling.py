"""Sampling parameters, grammars and log-probabilities."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache

from tandem.core.errors import DataLoss
from tandem.core.grammar import Grammar, GrammarKind
from tandem.core.logprobs import LogprobColumns, TokenLogprobs
from tandem.core.sampling_params import SamplingParams
from tandem.v1 import sampling_pb2
from tandem.wire.enums import known


def params_to_wire(params: SamplingParams) -> sampling_pb2.SamplingParams:
    message = sampling_pb2.SamplingParams(
        max_tokens=params.max_tokens,
        seed=params.seed,
        temperature=params.temperature,
        top_p=params.top_p,
        top_k=params.top_k,
        min_p=params.min_p,
        presence_penalty=params.presence_penalty,
        frequency_penalty=params.frequency_penalty,
        repetition_penalty=params.repetition_penalty,
        min_tokens=params.min_tokens,
        stop_token_ids=sorted(params.stop_token_ids),
        ignore_eos=params.ignore_eos,
        logprobs=params.logprobs,
        prompt_logprobs=params.prompt_logprobs,
        grammar=_grammar_to_wire(params.grammar),
    )
    if params.logit_bias:
        message.MergeFromString(_logit_bias_to_wire(params.logit_bias))
    return message


@lru_cache(maxsize=8)
def _logit_bias_to_wire(logit_bias: tuple[tuple[int, float], ...]) -> bytes:
    """Serialised `SamplingParams` of these alone. There may be a thousand, and they are the same
    for all of a request's sequences."""
    biases = [sampling_pb2.LogitBias(token_id=each, bias=bias) for each, bias in logit_bias]
    return sampling_pb2.SamplingParams(logit_bias=biases).SerializeToString()


def params_from_wire(message: sampling_pb2.SamplingParams) -> SamplingParams:
    """Raises `Mismatch` for a kind of grammar that this build does not know."""
    return SamplingParams(
        max_tokens=message.max_tokens,
        seed=message.seed,
        temperature=message.temperature,
        top_p=message.top_p,
        top_k=message.top_k,
        min_p=message.min_p,
        presence_penalty=message.presence_penalty,
        frequency_penalty=message.frequency_penalty,
        repetition_penalty=message.repetition_penalty,
        logit_bias=tuple((each.token_id, each.bias) for each in message.logit_bias),
        min_tokens=message.min_tokens,
        stop_token_ids=frozenset(message.stop_token_ids),
        ignore_eos=message.ignore_eos,
        logprobs=message.logprobs if message.HasField("logprobs") else None,
        prompt_logprobs=message.prompt_logprobs if message.HasField("prompt_logprobs") else None,
        grammar=_grammar_from_wire(message.grammar) if message.HasField("grammar") else None,
    )


def logprobs_to_wire(logprobs: TokenLogprobs | None) -> sampling_pb2.TokenLogprobs | None:
    if logprobs is None:
        return None
    return sampling_pb2.TokenLogprobs(
        logprob=logprobs.logprob,
        token_ids=logprobs.top_ids,
        logprobs=logprobs.top_logprobs,
    )


def logprobs_from_wire(message: sampling_pb2.TokenLogprobs) -> TokenLogprobs | None:
    """None for a message that was never set. Raises `DataLoss` if token ids and their
    log-probabilities are not as many."""
    if not message.HasField("logprob"):
        return None
    if len(message.token_ids) != len(message.logprobs):
        num_ids, num_logprobs = len(message.token_ids), len(message.logprobs)
        raise DataLoss(f"{num_logprobs} log-probabilities of {num_ids} tokens")
    return TokenLogprobs.of(message.logprob, message.token_ids, message.logprobs)


def logprobs_column_to_wire(
    column: Sequence[TokenLogprobs | None],
) -> list[sampling_pb2.TokenLogprobs]:
    """Rows that have none are empty messages; a column in which no row has any is empty."""
    return [logprobs_to_wire(each) or sampling_pb2.TokenLogprobs() for each in column]


def logprobs_column_from_wire(
    messages: Iterable[sampling_pb2.TokenLogprobs],
) -> tuple[TokenLogprobs | None, ...]:
    return tuple(map(logprobs_from_wire, messages))


def prompt_logprobs_to_wire(columns: LogprobColumns | None) -> sampling_pb2.PromptLogprobs | None:
    if columns is None:
        return None
    return sampling_pb2.PromptLogprobs(
        logprobs=columns.logprobs.tobytes(),
        top_token_ids=columns.top_ids.tobytes(),
        top_logprobs=columns.top_logprobs.tobytes(),
    )


def prompt_logprobs_from_wire(message: sampling_pb2.PromptLogprobs) -> LogprobColumns:
    """Raises `DataLoss` if the columns do not go together."""
    columns = LogprobColumns()
    try:
        columns.logprobs.frombytes(message.logprobs)
        columns.top_ids.frombytes(message.top_token_ids)
        columns.top_logprobs.frombytes(message.top_logprobs)
    except ValueError:
        raise DataLoss("log-probabilities of a prompt are cut off") from None
    num_tokens, num_top = len(columns), len(columns.top_ids)
    num_each = num_top // max(1, num_tokens)
    if not num_each * num_tokens == num_top == len(columns.top_logprobs):
        raise DataLoss(
            f"{len(columns.top_logprobs)} log-probabilities of {num_top} tokens at {num_tokens}"
            " places"
        )
    return columns


def _grammar_to_wire(grammar: Grammar | None) -> sampling_pb2.Grammar | None:
    if grammar is None:
        return None
    kind = sampling_pb2.GrammarKind.ValueType(grammar.kind)
    return sampling_pb2.Grammar(kind=kind, source=grammar.source)


def _grammar_from_wire(message: sampling_pb2.Grammar) -> Grammar:
    return Grammar(known(GrammarKind, message.kind), message.source)
