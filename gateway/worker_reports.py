"""What workers report, and what comes of it for the generations that they hold."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat
from typing import Any

from gateway.batching import Batching
from gateway.decode_view import DecodeView
from gateway.generation import Generation, Phase
from gateway.lifecycle import Lifecycle
from gateway.prefill_view import PrefillView
from gateway.shared_state import SharedState
from gateway.stages import AttemptEnd, Stage
from gateway.tokens import Ended, ScoredPrompt, Token, reported_token, snapshot_tokens
from tandem.core.commands import DecodeCommand, PrefillBatch, PrefillCommand, Reserve
from tandem.core.errors import (
    DataLoss,
    EngineFailed,
    Fenced,
    Mismatch,
    ResourceExhausted,
    TandemError,
    Unavailable,
    error_of,
)
from tandem.core.logprobs import LogprobColumns
from tandem.core.reports import (
    Armed,
    BatchDone,
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
    StepDone,
    TransferDone,
)
from tandem.core.sequence import FinishReason

# How long nothing is sent on an edge that has just failed, or to an engine, if there is another.
FAILURE_PENALTY_S = 5.0


class WorkerReports:
    """Takes reports and snapshots of either role."""

    def __init__(
        self,
        shared: SharedState,
        lifecycle: Lifecycle,
        batching: Batching,
        *,
        recompute_bad_kv: bool,
    ) -> None:
        """With `recompute_bad_kv`, what came damaged is computed again; else its request fails."""
        self._fleet = shared.fleet
        self._shares = shared.shares
        self._batching = batching
        self._self_checks = shared.self_checks
        self._lifecycle = lifecycle
        self._outbox = shared.outbox
        self._clock = shared.clock
        self._recompute_bad_kv = recompute_bad_kv

    def take(self, worker_id: str, report: Any) -> None:
        """Take a report: a `PrefillReport` or a `DecodeReport`, as the worker's role is. One that
        comes again changes nothing."""
        match self._fleet.of(worker_id):
            case PrefillView() as prefill:
                self._prefill_report(prefill, report)
            case DecodeView() as decode:
                self._decode_report(decode, report)

    def resumed(self, worker_id: str, snapshot: Any, unapplied: Sequence[Any]) -> None:
        """A worker's stream is back, with the snapshot of its role. `unapplied` are commands that
        it has yet to see."""
        match self._fleet.of(worker_id):
            case PrefillView() as prefill:
                self._prefill_resumed(prefill, snapshot, unapplied)
            case DecodeView() as decode:
                self._decode_resumed(decode, snapshot, unapplied)

    # Prefill workers

    def _prefill_report(self, worker: PrefillView, report: PrefillReport) -> None:
        if isinstance(report, BatchDone):
            worker.batches.pop(report.batch_id, None)
            return
        generation = worker.generations.get(report.sequence_id)
        if generation is None:
            return
        match report:
            case FirstToken():
                worker.prompt_begins(generation, report.num_cached_tokens)
                # What ends with this token has no transfer, or none that is waited for.
                then = Stage.TRANSFER if report.finish_reason is None else Stage.PREFILL
                self._scored(generation, report.prompt_logprobs)
                if self._computed(worker, generation, report.prompt_times, then):
                    self._accept(generation, reported_token(report), report.finish_reason)
            case TransferDone():
                self._lifecycle.leave_prefill(generation)
            case SequenceFailed() if generation.has_left(worker):
                self._lifecycle.leave_prefill(generation)
            case SequenceFailed():
                self._prefill_failed(worker, generation, error_of(report.reason, report.message))

    def _prefill_failed(
        self, worker: PrefillView, generation: Generation, error: TandemError
    ) -> None:
        """A prompt's computing or sending failed. If it is the decode worker that cannot be reached
        or has given the reservation up, that is a loss like any other. Of KV that came damaged no
        token was computed: it is computed again, and sent another way if there is one. A step that
        failed is perhaps another's fault."""
        if isinstance(error, Unavailable | DataLoss):
            worker.failed_edges[generation.decode_worker] = self._clock.now_s + FAILURE_PENALTY_S
        if isinstance(error, EngineFailed):
            self._keep_away(worker)
            self._lifecycle.step_failed(generation, error)
        elif isinstance(error, Unavailable | Fenced):
            self._lifecycle.restart_or_end(generation, error)
        elif isinstance(error, DataLoss) and self._recompute_bad_kv and generation.can_restart:
            self._lifecycle.requeue(generation, AttemptEnd.BAD_KV)
        else:
            self._lifecycle.end(generation, error)

    def _prefill_resumed(
        self, worker: PrefillView, snapshot: PrefillSnapshot, unapplied: Sequence[PrefillCommand]
    ) -> None:
        for report in snapshot.reports:
            self._prefill_report(worker, report)
        to_come = [command for command in unapplied if isinstance(command, PrefillBatch)]
        batch_ids = {*snapshot.batch_ids, *(batch.batch_id for batch in to_come)}
        worker.batches = {
            batch_id: tokens for batch_id, tokens in worker.batches.items() if batch_id in batch_ids
        }
        named = {chunk.sequence_id for batch in to_come for chunk in batch.chunks}
        self._fail_missing(worker, named.union(snapshot.sequence_ids))

    # Decode workers

    def _decode_report(self, worker: DecodeView, report: DecodeReport) -> None:
        if isinstance(report, StepDone):
            self._step_done(worker, report)
            return
        generation = worker.generations.get(report.sequence_id)
        if generation is None:
            self._self_checks.report(worker, report)
            return
        match report:
            case Reserved():
                worker.answered(report.sequence_id)
                self._granted(generation, report)
            case Armed():
                self._lifecycle.arm(generation, worker)
                generation.attempts.current.begin(Stage.ARMED_WAIT, worker.local_s(report.at_ns))
                self._accept(generation, reported_token(report), report.finish_reason)
            case PromptScores():
                self._scored(generation, report.logprobs)
            case Preempted():
                if report.parked:
                    generation.park(self._clock.now_s)
                else:
                    self._lifecycle.requeue(generation, AttemptEnd.PREEMPTED)
            case SequenceFailed(_, ResourceExhausted.reason, _) if (
                generation.phase is Phase.RESERVING
            ):
                self._lifecycle.requeue(generation, AttemptEnd.REFUSED)
                worker.refused(generation)
            case SequenceFailed(_, EngineFailed.reason, message):
                self._keep_away(worker)
                self._lifecycle.step_failed(generation, EngineFailed(message))
            case SequenceFailed():
                self._lifecycle.end(generation, error_of(report.reason, report.message))

    def _granted(self, generation: Generation, grant: Reserved) -> None:
        if generation.phase is Phase.RESERVING:
            generation.grant = grant
            if generation.is_local and generation.decode:
                generation.decode.prompt_begins(generation, grant.num_cached_tokens)
                generation.decode.own_prompts.begin(generation, grant.num_cached_tokens)
            self._batching.granted(generation)

    def _step_done(self, worker: DecodeView, step: StepDone) -> None:
        self._shares.stepped(worker, step.sequence_ids)
        for each in step.computed:
            if generation := worker.generations.get(each.sequence_id):
                self._computed(worker, generation, each.times, Stage.DECODE)
        tokens = map(Token, step.positions, step.token_ids, step.logprobs or repeat(None))
        rows = zip(step.sequence_ids, tokens, step.finish_reasons, strict=True)
        for sequence_id, token, reason in rows:
            if generation := worker.generations.get(sequence_id):
                if not generation.is_stepping:
                    generation.is_stepping = True
                    self._lifecycle.arm(generation, worker)
                    generation.attempts.current.begin(Stage.DECODE, worker.local_s(step.start_ns))
                self._accept(generation, token, reason)
            else:
                self._self_checks.token(worker, sequence_id, token.token_id, reason is not None)

    def _decode_resumed(
        self, worker: DecodeView, snapshot: DecodeSnapshot, unapplied: Sequence[DecodeCommand]
    ) -> None:
        for each in snapshot.sequences:
            self._decode_report(worker, each.reserved)
            generation = worker.generations.get(each.sequence_id)
            if generation and generation.is_local and each.token_ids:
                self._scored(generation, each.prompt_logprobs)
                self._computed(worker, generation, None, Stage.DECODE)
            for token in snapshot_tokens(each):
                generation = worker.generations.get(each.sequence_id)
                if generation is None:
                    break
                last = token.position + 1 == each.position + len(each.token_ids)
                self._lifecycle.arm(generation, worker)
                self._accept(generation, token, each.finish_reason if last else None)
        present = {each.sequence_id for each in snapshot.sequences}
        named = {each.sequence_id for each in unapplied if isinstance(each, Reserve)}
        self._fail_missing(worker, present | named)

    # Both

    def _keep_away(self, worker: PrefillView | DecodeView) -> None:
        """Its engine has failed: what goes on goes elsewhere, if there is another."""
        worker.failed_until_s = self._clock.now_s + FAILURE_PENALTY_S

    def _computed(
        self,
        worker: PrefillView | DecodeView,
        generation: Generation,
        times: PromptTimes | None,
        then: Stage,
    ) -> bool:
        """A worker has computed a generation's prompt, which is in the stage `then` since, and has
        told its log-probabilities if they are asked for. Whether the first token, which comes with
        that, is to be taken: the generation has ended if not."""
        if times:
            attempt = generation.attempts.current
            attempt.num_steps = times.num_steps
            attempt.begin(Stage.PREFILL, worker.local_s(times.start_ns))
            attempt.begin(then, worker.local_s(times.end_ns))
        if generation.awaits_scores:
            name = worker.info.worker_id
            error = Mismatch(
                f"{name} tells no log-probabilities of prompts: it is an older version"
            )
            self._lifecycle.end(generation, error)
        elif generation.request.params.max_tokens == 0:
            self._lifecycle.end(generation, Ended(FinishReason.LENGTH, generation.served_by()))
        return generation.phase is not Phase.ENDED

    def _scored(self, generation: Generation, logprobs: LogprobColumns | None) -> None:
        """A worker tells the log-probabilities of a generation's prompt, if it does, perhaps again.
        Its first token brings what waited for them."""
        if logprobs is None or not generation.awaits_scores:
            return
        num_told, num_asked = len(logprobs), generation.num_prompt_tokens - 1
        if num_told == num_asked:
            generation.answer.awaits_scores = False
            prompt = ScoredPrompt(generation.request.prompt_token_ids, logprobs)
            self._outbox.emit(generation, prompt)
        else:
            what = f"{num_told} log-probabilities of a prompt came, and not {num_asked}"
            self._lifecycle.end(generation, DataLoss(what))

    def _accept(self, generation: Generation, token: Token, reason: FinishReason | None) -> None:
        try:
            tokens, ended = generation.answer.accept(token, reason)
        except DataLoss as error:
            self._lifecycle.end(generation, error)
            return
        for each in tokens:
            self._outbox.emit(generation, each)
        if ended is not None:
            self._lifecycle.end(generation, Ended(ended, generation.served_by()))

    def _fail_missing(self, worker: PrefillView | DecodeView, present: set[int]) -> None:
        """Generations that a worker should hold and does not: their failure's report was lost. Of
        those with an open reservation only the decode worker knows yet; of those that had left it,
        what was lost is the word that their transfer is done."""
        needing = set(worker.dependents)
        for generation in list(worker.generations.values()):
            if generation.sequence_id in present:
                continue
            if generation not in needing:
                self._lifecycle.leave_prefill(generation)
            elif generation.phase is not Phase.RESERVING:
                error = Unavailable(f"{worker.info.worker_id} lost the request")
                self._lifecycle.restart_or_end(generation, error)
            elif generation.decode is worker:
                self._lifecycle.requeue(generation, AttemptEnd.UNANSWERED)
