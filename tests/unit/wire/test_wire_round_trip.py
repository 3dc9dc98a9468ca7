"""Whatever goes over the wire comes back as it was: through the bytes, not only the messages."""

from __future__ import annotations

from array import array
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import pytest
from fake_workers import fake_worker
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from tandem.core import commands as c
from tandem.core import reports as r
from tandem.core.errors import DataLoss, Mismatch
from tandem.core.grammar import Grammar, GrammarKind
from tandem.core.kv import ITEM_SIZES, KVLayout
from tandem.core.logprobs import LogprobColumns, TokenLogprobs
from tandem.core.plan import StepRule
from tandem.core.prefix_cache import CacheChanges
from tandem.core.quantization import Quantization
from tandem.core.sampling_params import SamplingParams
from tandem.core.sequence import FinishReason, SequenceKey
from tandem.core.token_ids import token_array
from tandem.core.worker import ModelInfo, WorkerInfo, WorkerRole
from tandem.v1 import decode_pb2, prefill_pb2, sampling_pb2, worker_pb2
from tandem.wire import commands, descriptions, reports
from tandem.wire.sampling import params_from_wire, params_to_wire, prompt_logprobs_from_wire

U32 = st.integers(0, 2**32 - 1)
U64 = st.integers(0, 2**64 - 1)
LATER = descriptions.PROTOCOL_REVISION + 1
IDS = st.lists(U32, max_size=5).map(tuple)
TOKENS = st.lists(U32, max_size=5).map(token_array)
TEXT = st.text(max_size=8)
FLOATS = st.floats(allow_nan=False)
LOGPROBS = st.none() | st.builds(
    lambda own, top: TokenLogprobs.of(own, *zip(*top, strict=True)),
    st.floats(width=32, allow_nan=False),
    st.lists(st.tuples(U32, st.floats(width=32, allow_nan=False)), max_size=3),
)
PROMPT_LOGPROBS = st.builds(
    lambda own, num_top: LogprobColumns(
        array("f", own),
        array("I", range(len(own) * num_top)),
        array("f", range(len(own) * num_top)),
    ),
    st.lists(st.floats(width=32, allow_nan=False), max_size=4),
    st.integers(0, 3),
)
REASONS = st.none() | st.sampled_from(FinishReason)

PARAMS = st.builds(
    SamplingParams,
    max_tokens=U32,
    seed=U64,
    temperature=FLOATS,
    top_p=FLOATS,
    top_k=U32,
    stop_token_ids=st.frozensets(U32, max_size=4),
    ignore_eos=st.booleans(),
    min_p=FLOATS,
    presence_penalty=FLOATS,
    frequency_penalty=FLOATS,
    repetition_penalty=FLOATS,
    logit_bias=st.lists(st.tuples(U32, FLOATS), max_size=3).map(tuple),
    min_tokens=U32,
    logprobs=st.none() | U32,
    prompt_logprobs=st.none() | U32,
    grammar=st.none() | st.builds(Grammar, st.sampled_from(GrammarKind), TEXT),
)
KEYS = st.builds(SequenceKey, TEXT, U32, U32)
DESTINATIONS = st.builds(c.Destination, TEXT, st.binary(max_size=16), U64, U32)
SEQUENCES = st.builds(
    c.PrefillSequence, KEYS, U32, PARAMS, st.none() | DESTINATIONS, st.binary(max_size=8), U32
)
CHUNKS = st.builds(
    c.PrefillChunk, U64, U32, TOKENS, st.booleans(), st.none() | SEQUENCES, st.none() | U32
)
DECODE_COMMANDS = (
    st.builds(
        c.Reserve,
        *(U64, KEYS, TOKENS, U32, PARAMS, st.binary(max_size=8), TOKENS),
        st.lists(FLOATS, max_size=3).map(tuple),
    )
    | st.builds(c.Admit, U64, st.booleans())
    | st.builds(c.SetStepRule, st.builds(StepRule, st.integers(1, 2**32 - 1), st.booleans(), U32))
    | st.builds(c.SetRecomputeCost, FLOATS)
    | st.builds(c.Remove, U64)
)
PREFILL_COMMANDS = st.builds(
    c.PrefillBatch, U64, st.lists(CHUNKS, max_size=3).map(tuple), U32
) | st.builds(c.Remove, U64)

RESERVED = st.builds(r.Reserved, U64, st.binary(max_size=16), U64, U32)
FAILED = st.builds(r.SequenceFailed, U64, TEXT, TEXT)
PROMPT_TIMES = st.builds(r.PromptTimes, U64, U64, U32)


@st.composite
def steps(draw: st.DrawFn) -> r.StepDone:
    rows = draw(st.lists(st.tuples(U64, U32, U32, REASONS, LOGPROBS), max_size=4))
    columns = zip(*rows, strict=True) if rows else [()] * 5
    prompts = st.builds(r.ComputedPrompt, U64, PROMPT_TIMES)
    computed = draw(st.lists(prompts, max_size=3).map(tuple))
    return r.StepDone(draw(U64), draw(U64), draw(U64), *map(tuple, columns), computed=computed)


DECODE_REPORTS = (
    RESERVED
    | FAILED
    | steps()
    | st.builds(r.PromptScores, U64, PROMPT_LOGPROBS)
    | st.builds(r.Armed, U64, U32, U32, U64, REASONS, LOGPROBS)
    | st.builds(r.Preempted, U64, st.booleans())
)
PREFILL_REPORTS = (
    FAILED
    | st.builds(r.BatchDone, U64, U64)
    | st.builds(
        r.FirstToken,
        *(U64, U32, U32, REASONS, LOGPROBS, U32),
        *(st.none() | PROMPT_TIMES, st.none() | PROMPT_LOGPROBS),
    )
    | st.builds(r.TransferDone, U64, U64)
)
DECODE_SNAPSHOTS = st.builds(
    r.DecodeSnapshot,
    st.lists(
        st.builds(
            r.SequenceSnapshot,
            U64,
            RESERVED,
            U32,
            IDS,
            REASONS,
            st.lists(LOGPROBS, max_size=3).map(tuple),
            st.none() | PROMPT_LOGPROBS,
        ),
        max_size=3,
    ).map(tuple),
)
PREFILL_SNAPSHOTS = st.builds(
    r.PrefillSnapshot, IDS, IDS, st.lists(PREFILL_REPORTS, max_size=3).map(tuple)
)
SPANS = st.builds(
    r.Span,
    kind=st.sampled_from(r.SpanKind),
    start_ns=U64,
    end_ns=U64,
    number=U64,
    sequence_id=U64,
    num_seqs=U32,
    num_tokens=U32,
    num_bytes=U64,
    compute_end_ns=U64,
    waited=st.booleans(),
    num_prefill_tokens=U32,
)
DIGESTS = st.lists(U64, max_size=3).map(tuple)
CACHE_CHANGES = st.builds(CacheChanges, DIGESTS, DIGESTS, st.booleans())
LAYOUTS = st.builds(KVLayout, U32, U32, U32, U32, st.sampled_from(sorted(ITEM_SIZES)))
MODELS = st.builds(
    ModelInfo,
    TEXT,
    TEXT,
    U32,
    U32,
    st.frozensets(U32, max_size=3),
    TEXT,
    st.sampled_from(Quantization),
    st.booleans(),
    TEXT,
)
WORKERS = st.builds(
    WorkerInfo,
    *(TEXT, st.sampled_from(WorkerRole), U64, MODELS, LAYOUTS, U32, U32),
    *(TEXT, TEXT, st.booleans(), TEXT, U32),
)

KINDS = {
    "decode command": (
        DECODE_COMMANDS,
        commands.decode_command_to_wire,
        commands.decode_command_from_wire,
    ),
    "prefill command": (
        PREFILL_COMMANDS,
        commands.prefill_command_to_wire,
        commands.prefill_command_from_wire,
    ),
    "decode report": (
        DECODE_REPORTS,
        reports.decode_report_to_wire,
        reports.decode_report_from_wire,
    ),
    "prefill report": (
        PREFILL_REPORTS,
        reports.prefill_report_to_wire,
        reports.prefill_report_from_wire,
    ),
    "decode snapshot": (
        DECODE_SNAPSHOTS,
        reports.decode_snapshot_to_wire,
        reports.decode_snapshot_from_wire,
    ),
    "prefill snapshot": (
        PREFILL_SNAPSHOTS,
        reports.prefill_snapshot_to_wire,
        reports.prefill_snapshot_from_wire,
    ),
    "span": (SPANS, reports.span_to_wire, reports.span_from_wire),
    "cache changes": (
        CACHE_CHANGES,
        reports.cache_changes_to_wire,
        reports.cache_changes_from_wire,
    ),
    "layout": (LAYOUTS, descriptions.layout_to_wire, descriptions.layout_from_wire),
    "worker": (WORKERS, descriptions.worker_to_wire, descriptions.worker_from_wire),
}


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_round_trip(kind: str, data: st.DataObject) -> None:
    values, to_wire, from_wire = KINDS[kind]
    value: Any = data.draw(values)
    message: Message = to_wire(value)
    assert from_wire(type(message).FromString(message.SerializeToString())) == value


def test_the_biases_of_a_request_are_written_once_for_all_its_sequences() -> None:
    params = SamplingParams(1, 0, logit_bias=tuple((each, 1.5) for each in range(1000)))
    with patch.object(sampling_pb2, "LogitBias", wraps=sampling_pb2.LogitBias) as written:
        messages = [params_to_wire(replace(params, seed=seed)) for seed in range(20)]
    assert written.call_count == 1000
    assert {params_from_wire(each).logit_bias for each in messages} == {params.logit_bias}
    assert [each.seed for each in messages] == list(range(20))


@pytest.mark.parametrize(
    ("message", "from_wire"),
    [
        (decode_pb2.DecodeCommand(), commands.decode_command_from_wire),
        (
            decode_pb2.DecodeCommand(set_step_rule=decode_pb2.SetStepRule(mixed=True)),
            commands.decode_command_from_wire,
        ),
        (prefill_pb2.PrefillCommand(), commands.prefill_command_from_wire),
        (decode_pb2.DecodeReport(), reports.decode_report_from_wire),
        (prefill_pb2.PrefillReport(), reports.prefill_report_from_wire),
        (worker_pb2.KvLayout(dtype="int4"), descriptions.layout_from_wire),
        (worker_pb2.WorkerDescription(), descriptions.worker_from_wire),
        (
            prefill_pb2.PrefillReport(first_token=prefill_pb2.FirstToken(finish_reason=99)),
            reports.prefill_report_from_wire,
        ),
        (
            worker_pb2.WorkerDescription(
                protocol_min=1,
                protocol_max=LATER,
                role=9,
                layout=worker_pb2.KvLayout(dtype="uint16"),
            ),
            descriptions.worker_from_wire,
        ),
        (worker_pb2.Span(kind=99), reports.span_from_wire),
    ],
)
def test_what_this_build_does_not_know_is_a_mismatch(message: Any, from_wire: Any) -> None:
    """Of a later version, say: a `TandemError`, and so no crash of who reads it."""
    with pytest.raises(Mismatch):
        from_wire(message)


@pytest.mark.parametrize(("first", "last"), [(LATER, LATER + 1), (0, LATER - 2)])
def test_a_worker_of_another_protocol_is_a_mismatch_whatever_else_it_says(
    first: int, last: int
) -> None:
    message = descriptions.worker_to_wire(fake_worker())
    assert descriptions.worker_from_wire(message) == fake_worker()
    message.protocol_min, message.protocol_max = first, last
    with pytest.raises(Mismatch, match=f"speaks protocol {first} to {last}"):
        descriptions.worker_from_wire(message)


KEY, GREEDY = SequenceKey("r"), SamplingParams(max_tokens=1, seed=0)
LATER_PARAMS = sampling_pb2.SamplingParams(grammar=sampling_pb2.Grammar(kind=99, source="a"))


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (
            decode_pb2.DecodeCommand(
                reserve=decode_pb2.Reserve(sequence_id=7, sampling=LATER_PARAMS)
            ),
            "GrammarKind 99 is not known here",
        ),
        (
            decode_pb2.DecodeCommand(admit=decode_pb2.Admit(sequence_id=7, when=99)),
            "AdmitWhen 99 is not known here",
        ),
        (
            decode_pb2.DecodeCommand(admit=decode_pb2.Admit(sequence_id=7)),
            "AdmitWhen 0 is not known here",
        ),
    ],
)
def test_what_is_not_known_of_a_sequence_costs_that_alone(message: Any, why: str) -> None:
    assert commands.decode_command_from_wire(message) == c.Unreadable(7, why)


def test_token_ids_that_are_cut_off_cost_their_sequence_alone() -> None:
    reserve = decode_pb2.Reserve(sequence_id=7, prompt_token_ids=bytes(6))
    chunk = prefill_pb2.PrefillChunk(sequence_id=7, token_ids=bytes(3))
    batch = prefill_pb2.PrefillBatch(batch_id=9, chunks=[chunk])
    unreadable = c.Unreadable(7, "its token ids are cut off")
    command = decode_pb2.DecodeCommand(reserve=reserve)
    assert commands.decode_command_from_wire(command) == unreadable
    received = commands.prefill_command_from_wire(prefill_pb2.PrefillCommand(batch=batch))
    assert received == c.PrefillBatch(9, (), 0, (unreadable,))


def test_a_batch_goes_on_without_the_sequence_that_is_not_known() -> None:
    one, two = (
        c.PrefillChunk(number, 0, token_array((1, 2)), last=True, sequence=sequence)
        for number, sequence in ((1, None), (2, c.PrefillSequence(KEY, 2, GREEDY, None)))
    )
    message = commands.prefill_command_to_wire(c.PrefillBatch(9, (one, two), 5))
    message.batch.chunks[1].sequence.sampling.CopyFrom(LATER_PARAMS)
    assert commands.prefill_command_from_wire(message) == c.PrefillBatch(
        9, (one,), 5, (c.Unreadable(2, "GrammarKind 99 is not known here"),)
    )


@pytest.mark.parametrize(
    ("own", "ids", "top"), [(7, 0, 0), (8, 8, 4), (8, 12, 12), (0, 4, 4), (4, 4, 3)]
)
def test_columns_that_do_not_go_together_are_data_that_is_lost(
    own: int, ids: int, top: int
) -> None:
    message = sampling_pb2.PromptLogprobs(
        logprobs=bytes(own), top_token_ids=bytes(ids), top_logprobs=bytes(top)
    )
    with pytest.raises(DataLoss):
        prompt_logprobs_from_wire(message)
