"""What a decode worker tells its controller: a step's outcome, and everything after a break."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from decode_service.held_sequence import HeldSequence
from tandem.core.logprobs import TokenLogprobs
from tandem.core.plan import StepPlan
from tandem.core.reports import ComputedPrompt, DecodeSnapshot, SequenceSnapshot, StepDone
from tandem.worker.report_log import MAX_SNAPSHOT_LOGPROBS


def step_done(
    plan: StepPlan,
    start_ns: int,
    end_ns: int,
    stepped: Iterable[HeldSequence],
    logprobs: Sequence[TokenLogprobs | None],
    computed: Iterable[HeldSequence] = (),
) -> StepDone:
    """The step, the newest tokens of the sequences that have new ones, and those whose prompt was
    `computed` here with it."""
    sequences = [held.sequence for held in stepped]
    return StepDone(
        plan.number,
        start_ns,
        end_ns,
        sequence_ids=tuple(each.sequence_id for each in sequences),
        positions=tuple(each.length - 1 for each in sequences),
        token_ids=tuple(each.token_ids[-1] for each in sequences),
        finish_reasons=tuple(each.finish_reason for each in sequences),
        logprobs=tuple(logprobs) if any(logprobs) else (),
        computed=tuple(
            ComputedPrompt(held.sequence.sequence_id, held.progress.times(end_ns))
            for held in computed
        ),
    )


def snapshot_of(held_sequences: Iterable[HeldSequence], num_open_reports: int) -> DecodeSnapshot:
    """What the controller may not have, which has not acknowledged so many reports. Failed
    sequences are not in it: the controller takes what it misses for failed. Nor are those whose
    log-probabilities would make it too large, where much is not acknowledged."""
    sequences: list[SequenceSnapshot] = []
    room = MAX_SNAPSHOT_LOGPROBS
    for held in held_sequences:
        if held.num_logprobs <= room:
            room -= held.num_logprobs
            sequences.append(held.snapshot(num_open_reports))
    return DecodeSnapshot(tuple(sequences))
