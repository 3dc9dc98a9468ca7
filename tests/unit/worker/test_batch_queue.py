"""The batches of a prefill worker, step by step."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable
from dataclasses import replace

import pytest

from prefill_service.batch_queue import BatchQueue
from tandem.core.blocks import SequenceBlocks
from tandem.core.commands import (
    Destination,
    PrefillBatch,
    PrefillChunk,
    PrefillSequence,
    Remove,
    Unreadable,
)
from tandem.core.errors import Fenced, InvalidRequest, TandemError
from tandem.core.grammar import Grammar, GrammarKind
from tandem.core.kv import KVLayout
from tandem.core.logprobs import LogprobColumns
from tandem.core.plan import SequenceSlice, StepPlan, StepResult
from tandem.core.reports import (
    BatchDone,
    FirstToken,
    PrefillReport,
    PrefillSnapshot,
    PromptTimes,
    SequenceFailed,
    TransferDone,
)
from tandem.core.sampling_params import SamplingParams
from tandem.core.sequence import EndRule, FinishReason, SequenceKey
from tandem.engine.protocols import LayerHook

LAYOUT = KVLayout(num_layers=1, num_kv_heads=1, head_dim=1, block_size=4, dtype="uint16")
EOS = 2
DESTINATION = Destination("127.0.0.1:1", b"capability", 1, 0)


class RecordedTransfers:
    """Knows what it was asked for."""

    def __init__(self) -> None:
        self.destination = DESTINATION
        self.started: list[int] = []
        self.finished: list[tuple[int, int]] = []
        self.aborted: list[int] = []
        self.blocks: dict[int, SequenceBlocks] = {}

    def start(self, sequence_id: int, destination: Destination, blocks: SequenceBlocks) -> None:
        assert destination == self.destination
        self.started.append(sequence_id)
        self.blocks[sequence_id] = blocks

    def layer_hook(self, plan: StepPlan) -> LayerHook:
        return lambda layer: None

    def finish(
        self, sequence_id: int, first_token_id: int, logprobs: object, compute_end_ns: int
    ) -> None:
        self.finished.append((sequence_id, first_token_id))

    def abort(self, sequence_id: int) -> None:
        self.aborted.append(sequence_id)


class Queue(BatchQueue):
    """With shorthands."""

    def __init__(
        self, num_blocks: int = 8, max_model_len: int = 100, prefix_caching: bool = False
    ) -> None:
        self.transfers = RecordedTransfers()
        super().__init__(
            layout=LAYOUT,
            num_blocks=num_blocks,
            end_rule=EndRule(frozenset({EOS}), max_model_len),
            transfers=self.transfers,
            prefix_caching=prefix_caching,
        )

    def submit(self, batch_id: int, *chunks: PrefillChunk) -> None:
        self.apply(PrefillBatch(batch_id, chunks))

    def start(self) -> StepPlan:
        plan = self.next_step()
        assert plan is not None
        return plan

    def done(self, plan: StepPlan, *token_ids: int | None) -> list[PrefillReport]:
        self.complete(plan, StepResult(token_ids), 10, 20)
        return self.reports.take()


def chunk(
    sequence_id: int,
    length: int,
    start: int = 0,
    end: int | None = None,
    max_tokens: int = 9,
    destination: Destination | None = DESTINATION,
    grammar: Grammar | None = None,
    prefix_salt: bytes = b"",
    prompt_logprobs: int | None = None,
) -> PrefillChunk:
    """Of a prompt of `length` tokens."""
    end = length if end is None else end
    params = SamplingParams(
        max_tokens=max_tokens, seed=0, grammar=grammar, prompt_logprobs=prompt_logprobs
    )
    key = SequenceKey(f"r{sequence_id}", choice_index=3)
    return PrefillChunk(
        sequence_id,
        start,
        tuple(range(start, end)),
        last=end == length,
        sequence=PrefillSequence(key, length, params, destination, prefix_salt)
        if start == 0
        else None,
        next_token_id=None if end == length or prompt_logprobs is None else end,
    )


def ids(plan: StepPlan | None) -> list[int]:
    return [each.sequence_id for each in plan.slices] if plan else []


def first_token(
    sequence_id: int,
    position: int,
    token_id: int,
    reason: FinishReason | None = None,
    num_steps: int = 1,
    num_cached_tokens: int = 0,
) -> FirstToken:
    """Of a prompt whose steps were all as `Queue.done` ends them."""
    times = PromptTimes(10, 20, num_steps)
    return FirstToken(sequence_id, position, token_id, reason, None, num_cached_tokens, times)


def failures(reports: Iterable[PrefillReport]) -> list[tuple[int, str]]:
    return [(each.sequence_id, each.reason) for each in reports if isinstance(each, SequenceFailed)]


# Whole prompts


def test_a_batch_is_one_step() -> None:
    queue = Queue()
    queue.submit(1, chunk(1, 5), chunk(2, 4))
    plan = queue.start()
    first, second = plan.slices
    assert (first.start, first.token_ids, len(first.block_table)) == (0, (0, 1, 2, 3, 4), 2)
    assert (first.sample.choice_index, second.end, len(second.block_table)) == (3, 4, 1)
    assert queue.num_free_blocks == 5
    assert queue.transfers.started == [1, 2]
    assert queue.done(plan, 50, 60) == [
        BatchDone(1, plan.number),
        first_token(1, 5, 50),
        first_token(2, 4, 60),
    ]
    assert queue.transfers.finished == [(1, 50), (2, 60)]
    assert queue.num_free_blocks == 5


def test_blocks_are_free_when_the_transfer_is_acknowledged_and_the_record_when_removed() -> None:
    queue = Queue()
    queue.submit(1, chunk(1, 5))
    queue.done(queue.start(), 50)
    queue.transfer_done(1, 999)
    assert queue.reports.take() == [TransferDone(1, 999)]
    assert queue.num_free_blocks == 8
    assert queue.snapshot() == PrefillSnapshot(
        (1,), (), (first_token(1, 5, 50), TransferDone(1, 999))
    )
    queue.apply(Remove(1))
    assert queue.snapshot() == PrefillSnapshot((), (), ())


def test_batches_run_in_their_order() -> None:
    queue = Queue()
    for batch_id in (1, 2, 3):
        queue.submit(batch_id, chunk(batch_id, 4))
    assert queue.snapshot().batch_ids == (1, 2, 3)
    for batch_id in (1, 2, 3):
        plan = queue.start()
        assert queue.snapshot().batch_ids == tuple(range(batch_id, 4))
        assert BatchDone(batch_id, plan.number) in queue.done(plan, 50)
    assert queue.next_step() is None


@pytest.mark.parametrize(
    ("token_id", "max_tokens", "max_model_len", "reason"),
    [
        (EOS, 9, 100, FinishReason.STOP),
        (50, 1, 100, FinishReason.LENGTH),
        (50, 9, 6, FinishReason.LENGTH),
    ],
)
def test_a_sequence_that_ends_with_its_first_token_is_not_sent(
    token_id: int, max_tokens: int, max_model_len: int, reason: FinishReason
) -> None:
    queue = Queue(max_model_len=max_model_len)
    queue.submit(1, chunk(1, 5, max_tokens=max_tokens))
    assert first_token(1, 5, token_id, reason) in queue.done(queue.start(), token_id)
    assert queue.transfers.finished == []
    assert queue.transfers.aborted == [1]
    assert queue.num_free_blocks == 8


def test_without_a_destination_nothing_is_sent() -> None:
    queue = Queue()
    queue.submit(1, chunk(1, 5, max_tokens=1, destination=None))
    queue.done(queue.start(), 50)
    assert queue.transfers.started == []
    assert queue.num_free_blocks == 8


def test_a_sequence_that_goes_on_needs_a_destination() -> None:
    queue = Queue()
    queue.submit(1, chunk(1, 5, destination=None))
    assert failures(queue.done(queue.start(), 50)) == [(1, "MISMATCH")]
    assert queue.num_free_blocks == 8


# Chunks


def test_chunks_go_on_where_the_last_ended() -> None:
    queue = Queue()
    queue.submit(1, chunk(1, 10, 0, 4))
    queue.submit(2, chunk(1, 10, 4, 8), chunk(2, 3))
    queue.submit(3, chunk(1, 10, 8))
    plan = queue.start()
    assert (plan.slices[0].sample, len(plan.slices[0].block_table)) == (None, 1)
    # All blocks of the prompt at once: one that has started can go on.
    assert queue.num_free_blocks == 5
    assert queue.done(plan, None) == [BatchDone(1, 1)]
    assert queue.done(queue.start(), None, 60) == [BatchDone(2, 2), first_token(2, 3, 60)]
    plan = queue.start()
    assert (plan.slices[0].start, len(plan.slices[0].block_table)) == (8, 3)
    assert queue.done(plan, 50) == [BatchDone(3, 3), first_token(1, 10, 50, num_steps=3)]
    assert queue.transfers.started == [1, 2]


def test_chunks_that_do_not_meet_fail_their_sequence() -> None:
    queue = Queue()
    queue.submit(1, chunk(1, 12, 0, 4))
    queue.submit(2, chunk(1, 12, 8), chunk(2, 3))
    queue.done(queue.start(), None)
    plan = queue.start()
    assert ids(plan) == [2]
    assert failures(queue.reports.take()) == [(1, "MISMATCH")]
    assert queue.num_free_blocks == 7
    assert queue.transfers.aborted == [1]


def test_a_cancel_between_chunks_drops_the_rest() -> None:
    queue = Queue()
    queue.submit(1, chunk(1, 8, 0, 4))
    queue.submit(2, chunk(1, 8, 4))
    queue.done(queue.start(), None)
    queue.apply(Remove(1))
    assert queue.num_free_blocks == 8
    assert queue.next_step() is None
    assert queue.reports.take() == [BatchDone(2, step=0)]
    assert queue.snapshot() == PrefillSnapshot((), (), ())


def test_a_cancel_during_a_step_frees_the_blocks_when_it_has_ended() -> None:
    queue = Queue()
    queue.submit(1, chunk(1, 8), chunk(2, 4))
    plan = queue.start()
    queue.apply(Remove(1))
    assert queue.num_free_blocks == 5
    assert queue.done(plan, 50, 60) == [BatchDone(1, 1), first_token(2, 4, 60)]
    assert queue.num_free_blocks == 7


def test_a_cancel_while_a_block_is_sent_frees_when_that_is_sent() -> None:
    queue = Queue()
    queue.submit(1, chunk(1, 8))
    queue.done(queue.start(), 50)
    blocks = queue.transfers.blocks[1]
    assert blocks.begin_access()
    queue.apply(Remove(1))
    assert (queue.num_free_blocks, queue.transfers.aborted) == (6, [1])
    blocks.end_access()
    assert queue.num_free_blocks == 8


# Too few blocks


def test_what_has_no_blocks_yet_stays_behind() -> None:
    queue = Queue(num_blocks=4)
    queue.submit(1, chunk(1, 8), chunk(2, 12), chunk(3, 4))
    queue.submit(2, chunk(4, 4))
    plan = queue.start()
    assert ids(plan) == [1, 3]
    assert queue.snapshot().batch_ids == (1, 1, 2)
    reports = queue.done(plan, 50, 60)
    assert not any(isinstance(each, BatchDone) for each in reports)
    # Batch 2 would fit, but waits for its turn.
    assert queue.next_step() is None
    queue.transfer_done(1, 0)
    queue.transfer_done(3, 0)
    queue.reports.take()
    plan = queue.start()
    assert ids(plan) == [2]
    assert queue.done(plan, 70)[0] == BatchDone(1, plan.number)
    assert ids(queue.start()) == [4]


def test_a_batch_whose_rest_is_cancelled_is_done() -> None:
    queue = Queue(num_blocks=3)
    queue.submit(1, chunk(1, 8), chunk(2, 12))
    queue.done(queue.start(), 50)
    queue.apply(Remove(2))
    assert queue.next_step() is None
    assert queue.reports.take() == [BatchDone(1, step=0)]


def test_what_has_started_passes_what_waits_for_its_blocks() -> None:
    queue = Queue(num_blocks=10)
    queue.submit(1, chunk(1, 32, 0, 16))
    queue.submit(2, chunk(2, 16, 0, 8), chunk(3, 12))
    queue.submit(3, chunk(1, 32, 16), chunk(4, 4), chunk(2, 16, 8))
    queue.done(queue.start(), None)
    plan = queue.start()
    assert [(each.sequence_id, each.start) for each in plan.slices] == [(1, 16)]
    # Nobody that comes later has started before those that wait.
    assert queue.done(plan, 50) == [first_token(1, 32, 50, num_steps=2)]
    assert queue.next_step() is None
    queue.transfer_done(1, 0)
    queue.reports.take()
    plan = queue.start()
    assert ids(plan) == [2, 3]
    assert queue.done(plan, None, 60) == [BatchDone(2, 3), first_token(3, 12, 60)]
    assert ids(queue.start()) == [4, 2]


# Preparing


GRAMMAR = Grammar(GrammarKind.REGEX, "a+")


def test_what_the_engine_is_not_prepared_for_stays_behind_and_lets_others_pass() -> None:
    queue = Queue(num_blocks=20)
    queue.submit(1, chunk(1, 5, grammar=GRAMMAR), chunk(2, 3))
    queue.submit(2, chunk(3, 4))
    (preparation,) = queue.preparations.take_due()
    assert preparation.sequence_id == 1
    assert queue.done(queue.start(), 60) == [first_token(2, 3, 60)]
    assert queue.snapshot().batch_ids == (1, 2)
    second = queue.start()
    assert queue.snapshot().batch_ids == (2,)
    reports = queue.done(second, 70)
    assert [each for each in reports if isinstance(each, BatchDone)] == [
        BatchDone(1, 0),
        BatchDone(2, 2),
    ]
    assert queue.next_step() is None
    queue.prepared(preparation, None)
    assert queue.done(queue.start(), 50) == [first_token(1, 5, 50)]
    assert queue.snapshot().batch_ids == ()


def test_what_is_removed_while_it_is_prepared_for_leaves_a_batch_that_is_done() -> None:
    queue = Queue(num_blocks=20)
    queue.submit(1, chunk(1, 5, grammar=GRAMMAR))
    assert queue.next_step() is None
    assert queue.reports.take() == [BatchDone(1, 0)]
    queue.apply(Remove(1))
    assert queue.next_step() is None
    assert queue.reports.take() == []
    queue.submit(1, chunk(2, 3))
    assert BatchDone(1, 1) in queue.done(queue.start(), 60)


def test_only_the_last_chunk_waits_for_the_engine_to_be_prepared() -> None:
    queue = Queue()
    queue.submit(1, chunk(1, 8, 0, 4, grammar=GRAMMAR))
    queue.submit(2, chunk(1, 8, 4))
    queue.done(queue.start(), None)
    assert queue.next_step() is None
    queue.prepared(*queue.preparations.take_due(), None)
    assert ids(queue.next_step()) == [1]


def test_what_cannot_be_prepared_for_fails_alone() -> None:
    queue = Queue()
    queue.submit(1, chunk(1, 5, grammar=GRAMMAR))
    queue.submit(2, chunk(2, 3))
    queue.prepared(*queue.preparations.take_due(), InvalidRequest("too complex"))
    assert ids(queue.next_step()) == [2]
    assert queue.reports.take() == [
        SequenceFailed(1, "INVALID_REQUEST", "too complex"),
        BatchDone(1, step=0),
    ]


def test_what_was_removed_is_not_prepared_for_any_more() -> None:
    queue = Queue()
    queue.submit(1, chunk(1, 5, grammar=GRAMMAR))
    (late,) = queue.preparations.take_due()
    queue.apply(Remove(1))
    queue.prepared(late, InvalidRequest("too complex"))
    assert queue.reports.take() == []


# Failures


def test_a_failed_step_costs_its_sequences_alone() -> None:
    queue = Queue()
    queue.submit(1, chunk(1, 8))
    queue.submit(2, chunk(2, 4))
    queue.fail(queue.start(), TandemError("the engine failed"))
    reports = queue.reports.take()
    assert failures(reports) == [(1, "INTERNAL")]
    assert BatchDone(1, 1) in reports
    assert queue.num_free_blocks == 8
    assert ids(queue.next_step()) == [2]


@pytest.mark.parametrize("when", ["between chunks", "during a step", "at the end"])
def test_a_failed_transfer_fails_its_sequence_once(when: str) -> None:
    queue = Queue()
    queue.submit(1, chunk(1, 8, 0, 4))
    queue.submit(2, chunk(1, 8, 4))
    steps: dict[str, Callable[[], StepPlan | None]] = {
        "between chunks": lambda: None,
        "during a step": queue.start,
        "at the end": lambda: queue.done(queue.start(), 50) and None,
    }
    queue.done(queue.start(), None)
    plan = steps[when]()
    queue.reports.take()
    queue.transfer_failed(1, Fenced("released"))
    queue.transfer_failed(1, Fenced("released"))
    assert queue.reports.take() == [SequenceFailed(1, "FENCED", "released")]
    if plan:
        assert queue.done(plan, 50) == [BatchDone(2, 2)]
    assert queue.next_step() is None
    assert queue.num_free_blocks == 8
    assert queue.snapshot().sequence_ids == (1,)
    assert SequenceFailed(1, "FENCED", "released") in queue.snapshot().reports


def test_a_sequence_of_which_something_is_not_known_fails_alone() -> None:
    queue = Queue()
    known = chunk(1, 4)
    queue.apply(PrefillBatch(1, (known,), unreadable=(Unreadable(2, "of a later version"),)))
    queue.submit(2, chunk(2, 8, 4))
    queue.apply(PrefillBatch(3, (), unreadable=(Unreadable(3, "of a later version"),)))
    plan = queue.start()
    assert ids(plan) == [1]
    reports = queue.done(plan, 50)
    assert failures(reports) == [(2, "MISMATCH"), (3, "MISMATCH")]
    assert reports[2:] == [BatchDone(1, plan.number), first_token(1, 4, 50)]
    assert queue.next_step() is None
    assert queue.reports.take() == [BatchDone(2, step=0), BatchDone(3, step=0)]


def test_a_sequence_that_is_held_fails_as_well_if_something_of_it_is_not_known() -> None:
    queue = Queue()
    queue.submit(1, chunk(1, 8, end=4))
    queue.done(queue.start(), None)
    queue.apply(PrefillBatch(2, (), unreadable=(Unreadable(1, "of a later version"),)))
    assert failures(queue.reports.take()) == [(1, "MISMATCH")]
    assert queue.num_free_blocks == 8
    # A controller that has missed the report hears of it again.
    assert failures(queue.snapshot().reports) == [(1, "MISMATCH")]


def test_what_is_said_of_removed_sequences_is_ignored() -> None:
    queue = Queue()
    queue.apply(Remove(1))
    queue.transfer_done(1, 0)
    queue.transfer_failed(1, Fenced("released"))
    queue.submit(1, chunk(1, 8, 4))
    assert queue.next_step() is None
    assert queue.reports.take() == [BatchDone(1, step=0)]


def test_clear_forgets_all_and_frees_what_is_not_in_a_step() -> None:
    queue = Queue()
    queue.submit(1, chunk(1, 8))
    queue.submit(2, chunk(2, 4))
    plan = queue.start()
    queue.clear()
    assert queue.snapshot().sequence_ids == ()
    assert queue.num_free_blocks == 6
    assert not any(isinstance(each, FirstToken) for each in queue.done(plan, 50))
    assert queue.num_free_blocks == 8
    assert queue.next_step() is None
    assert queue.snapshot() == PrefillSnapshot((), (), ())


# Log-probabilities of prompts


def scores(first: int, end: int) -> LogprobColumns:
    """Of tokens that are each less likely than the one before."""
    own = array("f", [-float(each) for each in range(first, end)])
    return LogprobColumns(own, array("I", range(first, end)), array("f", [-0.5] * (end - first)))


def score_next(queue: Queue) -> tuple[SequenceSlice, list[PrefillReport]]:
    """A step of one sequence whose prompt's tokens are their positions."""
    plan = queue.start()
    (each,) = plan.slices
    found = None
    if each.score:
        first, end = each.start + 1, each.start + 1 + len(each.score.targets)
        assert (tuple(each.score.targets), each.score.num_top) == (tuple(range(first, end)), 1)
        found = scores(first, end)
    token_id = 50 if each.sample else None
    queue.complete(plan, StepResult((token_id,), scores=(found,)), 10, 20)
    return each, queue.reports.take()


def test_a_prompts_logprobs_are_gathered_over_its_chunks() -> None:
    """Also over those that are cut, because a batch has no more room."""
    queue = Queue()
    queue.apply(PrefillBatch(1, (chunk(1, 13, 0, 8, prompt_logprobs=1),), max_tokens=4))
    queue.submit(2, chunk(1, 13, 8, 12, prompt_logprobs=1))
    queue.submit(3, chunk(1, 13, 12, prompt_logprobs=1))
    ends = []
    for _ in range(4):
        each, reports = score_next(queue)
        ends.append((each.end, each.score.targets[-1] if each.score else None))
    assert ends == [(4, 4), (8, 8), (12, 12), (13, None)]
    first = next(each for each in reports if isinstance(each, FirstToken))
    assert first.prompt_logprobs == scores(1, 13)


def test_a_prompts_logprobs_are_said_again_until_they_are_acknowledged() -> None:
    queue = Queue()
    queue.submit(1, chunk(1, 5, prompt_logprobs=1))
    score_next(queue)
    snapshot = queue.snapshot()
    assert [each.prompt_logprobs for each in snapshot.reports] == [scores(1, 5)]
    queue.acknowledge(queue.reports.last_taken - 1)
    assert queue.snapshot() == snapshot
    queue.acknowledge(queue.reports.last_taken)
    (again,) = queue.snapshot().reports
    assert again == replace(snapshot.reports[0], prompt_logprobs=None)


def test_a_snapshot_has_no_more_logprobs_than_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is left out is taken for failed: all others are not."""
    queue = Queue()
    queue.submit(1, chunk(1, 5, prompt_logprobs=1))
    queue.submit(2, chunk(2, 9, prompt_logprobs=1), chunk(3, 4))
    score_next(queue)
    plan = queue.start()
    queue.complete(plan, StepResult((50, 60), scores=(scores(1, 9), None)), 10, 20)
    for most, told in ((24, (1, 2, 3)), (23, (1, 3)), (7, (3,))):
        monkeypatch.setattr("prefill_service.batch_queue.MAX_SNAPSHOT_LOGPROBS", most)
        assert queue.snapshot().sequence_ids == told
    queue.acknowledge(queue.reports.last_taken + 9)
    assert queue.snapshot().sequence_ids == (1, 2, 3)


def test_a_prompt_whose_logprobs_are_asked_for_is_computed_whole_and_then_cached() -> None:
    queue = Queue(num_blocks=16, prefix_caching=True)
    starts = []
    for sequence_id, asked in ((1, 1), (2, 1), (3, None)):
        queue.submit(sequence_id, chunk(sequence_id, 9, prompt_logprobs=asked))
        each, _ = score_next(queue)
        starts.append(each.start)
    assert starts == [0, 0, 8]


def test_a_prompt_leaves_no_more_slots_unused_than_its_last_block_has() -> None:
    """However much of it is yet to be computed."""
    queue = Queue()
    queue.submit(1, chunk(1, 14, end=8))
    queue.submit(2, chunk(1, 14, start=8))
    assert queue.num_unused_slots == 0, "it has no blocks yet"
    for token_id in (None, 50):
        step = queue.start()
        assert queue.num_unused_slots == 16 - 14
        queue.done(step, token_id)
    assert queue.num_unused_slots == 16 - 14
    queue.transfer_done(1, num_bytes=1)
    assert queue.num_unused_slots == 0
