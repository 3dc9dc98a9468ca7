"""Reports, snapshots and spans."""

from __future__ import annotations

from itertools import starmap

from tandem.core.errors import Mismatch
from tandem.core.logprobs import LogprobColumns
from tandem.core.prefix_cache import CacheChanges
from tandem.core.reports import (
    Armed,
    BatchDone,
    ComputedPrompt,
    DecodeReport,
    DecodeSnapshot,
    FirstToken,
    Preempted,
    PrefillReport,
    PrefillSnapshot,
    PromptScores,
    PromptTimes,
    Reserved,
    SequenceFailed,
    SequenceSnapshot,
    Span,
    SpanKind,
    StepDone,
    TransferDone,
)
from tandem.core.sequence import FinishReason
from tandem.v1 import decode_pb2, prefill_pb2, sampling_pb2, worker_pb2
from tandem.wire.enums import known
from tandem.wire.sampling import (
    logprobs_column_from_wire,
    logprobs_column_to_wire,
    logprobs_from_wire,
    logprobs_to_wire,
    prompt_logprobs_from_wire,
    prompt_logprobs_to_wire,
)


def finish_to_wire(reason: FinishReason | None) -> sampling_pb2.FinishReason.ValueType:
    return sampling_pb2.FinishReason.ValueType(reason or 0)


def finish_from_wire(value: int) -> FinishReason | None:
    return known(FinishReason, value) if value else None


def decode_report_to_wire(report: DecodeReport) -> decode_pb2.DecodeReport:
    match report:
        case StepDone():
            return decode_pb2.DecodeReport(
                step=decode_pb2.StepDone(
                    step=report.step,
                    start_ns=report.start_ns,
                    end_ns=report.end_ns,
                    sequence_ids=report.sequence_ids,
                    positions=report.positions,
                    tokens=report.token_ids,
                    finish_reasons=map(finish_to_wire, report.finish_reasons),
                    logprobs=logprobs_column_to_wire(report.logprobs),
                    computed_sequence_ids=[sequence_id for sequence_id, _ in report.computed],
                    prompt_times=[_prompt_times_to_wire(times) for _, times in report.computed],
                )
            )
        case PromptScores(sequence_id, scores):
            return decode_pb2.DecodeReport(
                prompt_scores=decode_pb2.PromptScores(
                    sequence_id=sequence_id, logprobs=prompt_logprobs_to_wire(scores)
                )
            )
        case Reserved():
            return decode_pb2.DecodeReport(reserved=_reserved_to_wire(report))
        case Armed():
            return decode_pb2.DecodeReport(
                armed=decode_pb2.Armed(
                    sequence_id=report.sequence_id,
                    position=report.position,
                    token=report.token_id,
                    at_ns=report.at_ns,
                    finish_reason=finish_to_wire(report.finish_reason),
                    logprobs=logprobs_to_wire(report.logprobs),
                )
            )
        case Preempted(sequence_id, parked):
            return decode_pb2.DecodeReport(
                preempted=decode_pb2.Preempted(sequence_id=sequence_id, parked=parked)
            )
        case SequenceFailed():
            return decode_pb2.DecodeReport(failed=_failed_to_wire(report))


def decode_report_from_wire(message: decode_pb2.DecodeReport) -> DecodeReport:
    """Raises `Mismatch` for a report that this build does not know."""
    match message.WhichOneof("report"):
        case "step":
            step = message.step
            return StepDone(
                step=step.step,
                start_ns=step.start_ns,
                end_ns=step.end_ns,
                sequence_ids=tuple(step.sequence_ids),
                positions=tuple(step.positions),
                token_ids=tuple(step.tokens),
                finish_reasons=tuple(map(finish_from_wire, step.finish_reasons)),
                logprobs=logprobs_column_from_wire(step.logprobs),
                computed=_computed_from_wire(step) if step.computed_sequence_ids else (),
            )
        case "prompt_scores":
            scores = message.prompt_scores
            return PromptScores(scores.sequence_id, prompt_logprobs_from_wire(scores.logprobs))
        case "reserved":
            return _reserved_from_wire(message.reserved)
        case "armed":
            armed = message.armed
            return Armed(
                armed.sequence_id,
                armed.position,
                armed.token,
                armed.at_ns,
                finish_from_wire(armed.finish_reason),
                logprobs_from_wire(armed.logprobs),
            )
        case "preempted":
            return Preempted(message.preempted.sequence_id, message.preempted.parked)
        case "failed":
            return _failed_from_wire(message.failed)
    raise Mismatch("a decode worker sent a report that this gateway does not know")


def decode_snapshot_to_wire(snapshot: DecodeSnapshot) -> decode_pb2.DecodeSnapshot:
    return decode_pb2.DecodeSnapshot(
        sequences=[
            decode_pb2.SequenceSnapshot(
                sequence_id=each.sequence_id,
                reserved=_reserved_to_wire(each.reserved),
                position=each.position,
                token_ids=each.token_ids,
                finish_reason=finish_to_wire(each.finish_reason),
                logprobs=logprobs_column_to_wire(each.logprobs),
                prompt_logprobs=prompt_logprobs_to_wire(each.prompt_logprobs),
            )
            for each in snapshot.sequences
        ]
    )


def decode_snapshot_from_wire(message: decode_pb2.DecodeSnapshot) -> DecodeSnapshot:
    return DecodeSnapshot(
        tuple(
            SequenceSnapshot(
                sequence_id=each.sequence_id,
                reserved=_reserved_from_wire(each.reserved),
                position=each.position,
                token_ids=tuple(each.token_ids),
                finish_reason=finish_from_wire(each.finish_reason),
                logprobs=logprobs_column_from_wire(each.logprobs),
                prompt_logprobs=_prompt_logprobs_of(each),
            )
            for each in message.sequences
        )
    )


def prefill_report_to_wire(report: PrefillReport) -> prefill_pb2.PrefillReport:
    match report:
        case BatchDone():
            return prefill_pb2.PrefillReport(
                batch_done=prefill_pb2.BatchDone(batch_id=report.batch_id, step=report.step)
            )
        case FirstToken():
            return prefill_pb2.PrefillReport(
                first_token=prefill_pb2.FirstToken(
                    sequence_id=report.sequence_id,
                    position=report.position,
                    token=report.token_id,
                    finish_reason=finish_to_wire(report.finish_reason),
                    logprobs=logprobs_to_wire(report.logprobs),
                    num_cached_tokens=report.num_cached_tokens,
                    prompt_times=(
                        _prompt_times_to_wire(report.prompt_times) if report.prompt_times else None
                    ),
                    prompt_logprobs=prompt_logprobs_to_wire(report.prompt_logprobs),
                )
            )
        case TransferDone():
            return prefill_pb2.PrefillReport(
                transfer_done=prefill_pb2.TransferDone(
                    sequence_id=report.sequence_id, num_bytes=report.num_bytes
                )
            )
        case SequenceFailed():
            return prefill_pb2.PrefillReport(failed=_failed_to_wire(report))


def prefill_report_from_wire(message: prefill_pb2.PrefillReport) -> PrefillReport:
    """Raises `Mismatch` for a report that this build does not know."""
    match message.WhichOneof("report"):
        case "batch_done":
            return BatchDone(message.batch_done.batch_id, message.batch_done.step)
        case "first_token":
            first = message.first_token
            return FirstToken(
                first.sequence_id,
                first.position,
                first.token,
                finish_from_wire(first.finish_reason),
                logprobs_from_wire(first.logprobs),
                first.num_cached_tokens,
                (
                    _prompt_times_from_wire(first.prompt_times)
                    if first.HasField("prompt_times")
                    else None
                ),
                _prompt_logprobs_of(first),
            )
        case "transfer_done":
            done = message.transfer_done
            return TransferDone(done.sequence_id, done.num_bytes)
        case "failed":
            return _failed_from_wire(message.failed)
    raise Mismatch("a prefill worker sent a report that this gateway does not know")


def prefill_snapshot_to_wire(snapshot: PrefillSnapshot) -> prefill_pb2.PrefillSnapshot:
    return prefill_pb2.PrefillSnapshot(
        sequence_ids=snapshot.sequence_ids,
        batch_ids=snapshot.batch_ids,
        reports=map(prefill_report_to_wire, snapshot.reports),
    )


def prefill_snapshot_from_wire(message: prefill_pb2.PrefillSnapshot) -> PrefillSnapshot:
    return PrefillSnapshot(
        sequence_ids=tuple(message.sequence_ids),
        batch_ids=tuple(message.batch_ids),
        reports=tuple(map(prefill_report_from_wire, message.reports)),
    )


def span_to_wire(span: Span) -> worker_pb2.Span:
    return worker_pb2.Span(
        kind=worker_pb2.SpanKind.ValueType(span.kind),
        start_ns=span.start_ns,
        end_ns=span.end_ns,
        number=span.number,
        sequence_id=span.sequence_id,
        num_seqs=span.num_seqs,
        num_tokens=span.num_tokens,
        num_bytes=span.num_bytes,
        compute_end_ns=span.compute_end_ns,
        waited=span.waited,
        num_prefill_tokens=span.num_prefill_tokens,
    )


def span_from_wire(message: worker_pb2.Span) -> Span:
    return Span(
        kind=known(SpanKind, message.kind),
        start_ns=message.start_ns,
        end_ns=message.end_ns,
        number=message.number,
        sequence_id=message.sequence_id,
        num_seqs=message.num_seqs,
        num_tokens=message.num_tokens,
        num_bytes=message.num_bytes,
        compute_end_ns=message.compute_end_ns,
        waited=message.waited,
        num_prefill_tokens=message.num_prefill_tokens,
    )


def cache_changes_to_wire(changes: CacheChanges) -> worker_pb2.PrefixCacheUpdate:
    return worker_pb2.PrefixCacheUpdate(
        added=changes.added, removed=changes.removed, whole=changes.whole
    )


def cache_changes_from_wire(message: worker_pb2.PrefixCacheUpdate) -> CacheChanges:
    return CacheChanges(tuple(message.added), tuple(message.removed), message.whole)


def _reserved_to_wire(reserved: Reserved) -> decode_pb2.Reserved:
    return decode_pb2.Reserved(
        sequence_id=reserved.sequence_id,
        transfer_id=reserved.transfer_id,
        epoch=reserved.epoch,
        num_cached_tokens=reserved.num_cached_tokens,
    )


def _reserved_from_wire(message: decode_pb2.Reserved) -> Reserved:
    return Reserved(
        message.sequence_id, message.transfer_id, message.epoch, message.num_cached_tokens
    )


def _prompt_times_to_wire(times: PromptTimes) -> worker_pb2.PromptTimes:
    return worker_pb2.PromptTimes(
        start_ns=times.start_ns, end_ns=times.end_ns, num_steps=times.num_steps
    )


def _prompt_times_from_wire(message: worker_pb2.PromptTimes) -> PromptTimes:
    return PromptTimes(message.start_ns, message.end_ns, message.num_steps)


def _computed_from_wire(step: decode_pb2.StepDone) -> tuple[ComputedPrompt, ...]:
    times = map(_prompt_times_from_wire, step.prompt_times)
    return tuple(starmap(ComputedPrompt, zip(step.computed_sequence_ids, times, strict=True)))


def _prompt_logprobs_of(
    message: prefill_pb2.FirstToken | decode_pb2.SequenceSnapshot,
) -> LogprobColumns | None:
    if not message.HasField("prompt_logprobs"):
        return None
    return prompt_logprobs_from_wire(message.prompt_logprobs)


def _failed_to_wire(failed: SequenceFailed) -> worker_pb2.SequenceFailed:
    return worker_pb2.SequenceFailed(
        sequence_id=failed.sequence_id, reason=failed.reason, message=failed.message
    )


def _failed_from_wire(message: worker_pb2.SequenceFailed) -> SequenceFailed:
    return SequenceFailed(message.sequence_id, message.reason, message.message)
