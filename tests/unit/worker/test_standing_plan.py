"""The standing plan of a decode worker, step by step."""

from __future__ import annotations

from array import array

import pytest
from standing_plan_driver import EOS, LAYOUT, STOP, Plan, ids, the_step

from gateway.limits import MAX_PROMPT_LOGPROBS
from tandem.core.commands import Admit, Remove, SetStepRule, Unreadable
from tandem.core.errors import Fenced, InvalidRequest, TandemError
from tandem.core.grammar import Grammar, GrammarKind
from tandem.core.logprobs import LogprobColumns, TokenLogprobs
from tandem.core.plan import ScoreSpec, StepPlan, StepResult, StepRule
from tandem.core.reports import (
    Armed,
    ComputedPrompt,
    DecodeReport,
    DecodeSnapshot,
    PromptScores,
    PromptTimes,
    Reserved,
    SequenceFailed,
    SequenceSnapshot,
    StepDone,
)
from tandem.core.sequence import FinishReason
from tandem.transfer.reservation import Released
from tandem.wire.channels import MAX_MESSAGE_BYTES
from tandem.wire.reports import decode_report_to_wire, decode_snapshot_to_wire

# Reservations


def test_a_reservation_takes_prompt_and_headroom() -> None:
    plan = Plan()
    (grant,) = plan.reserve(length=5, headroom=4, logprobs=2)
    assert isinstance(grant, Reserved)
    assert (grant.sequence_id, grant.num_cached_tokens) == (1, 0)
    assert plan.num_free_blocks == 8 - 3
    reservation = plan.reservation(grant.transfer_id, grant.epoch)
    assert (reservation.num_tokens, len(reservation.blocks.ids)) == (5, 3)
    assert reservation.num_logprobs == 2


def test_every_grant_has_a_capability_and_an_epoch_of_its_own() -> None:
    plan = Plan(max_num_seqs=8)
    grants = [plan.reserve(n, 1, 1)[0] for n in range(8)]
    assert len({grant.transfer_id for grant in grants}) == 8
    assert len({grant.epoch for grant in grants}) == 8
    assert all(len(grant.transfer_id) >= 16 for grant in grants)


def test_a_repeated_reserve_changes_nothing() -> None:
    plan = Plan()
    plan.reserve()
    assert plan.reserve() == []
    assert plan.num_free_blocks == 6


def test_what_does_not_fit_is_refused_and_leaves_nothing() -> None:
    plan = Plan(num_blocks=3)
    (refusal,) = plan.reserve(length=8, headroom=5)
    assert isinstance(refusal, SequenceFailed)
    assert (refusal.sequence_id, refusal.reason) == (1, "RESOURCE_EXHAUSTED")
    assert plan.num_free_blocks == 3
    assert plan.snapshot() == DecodeSnapshot(())
    assert isinstance(plan.reserve(length=8, headroom=4)[0], Reserved)


def test_no_more_sequences_than_agreed() -> None:
    plan = Plan(max_num_seqs=1)
    plan.reserve(1)
    assert isinstance(plan.reserve(2)[0], SequenceFailed)
    plan.apply(Remove(1))
    assert isinstance(plan.reserve(2)[0], Reserved)


def test_a_removed_reservation_is_fenced(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is known to have been there for a while, in which its KV may be on its way."""
    monkeypatch.setattr("decode_service.standing_plan.MAX_UNFILLED", 2)

    def refusal(transfer_id: bytes, epoch: int) -> type[Fenced]:
        with pytest.raises(Fenced) as error:
            plan.reservation(transfer_id, epoch)
        return error.type

    plan = Plan()
    plan.reserve()
    grant = plan.grants[1]
    assert refusal(grant.transfer_id, grant.epoch + 1) is Fenced
    assert refusal(b"", grant.epoch) is Fenced
    plan.apply(Remove(1))
    assert refusal(grant.transfer_id, grant.epoch) is Released
    assert refusal(b"", grant.epoch) is Fenced
    assert plan.num_free_blocks == 8
    for sequence_id in (2, 3):
        plan.reserve(sequence_id)
        plan.apply(Remove(sequence_id))
    assert refusal(grant.transfer_id, grant.epoch) is Fenced


def test_a_remove_while_a_frame_is_written_frees_when_that_has_ended() -> None:
    plan = Plan()
    plan.reserve()
    blocks = plan.reservation(plan.grants[1].transfer_id, plan.grants[1].epoch).blocks
    assert blocks.begin_access()
    plan.apply(Remove(1))
    assert plan.num_free_blocks == 6
    blocks.end_access()
    assert plan.num_free_blocks == 8


# Joining


@pytest.mark.parametrize("admitted_first", [True, False])
def test_a_sequence_runs_once_it_is_admitted_and_armed(admitted_first: bool) -> None:
    plan = Plan()
    plan.reserve()
    acts = [lambda: plan.apply(Admit(1)), plan.arm]
    for act in acts if admitted_first else acts[::-1]:
        assert plan.next_step() is None
        act()
    assert plan.reports.take() == [Armed(1, position=5, token_id=50, at_ns=5)]
    (part,) = plan.start().slices
    assert (part.sequence_id, part.token_ids, part.start) == (1, (50,), 5)
    assert (len(part.block_table), part.sample.params.max_tokens) == (2, 50)


def test_a_sequence_that_ends_as_it_is_armed_says_so_and_frees_its_blocks() -> None:
    plan = Plan(max_model_len=6)
    plan.reserve(headroom=1)
    plan.apply(Admit(1))
    plan.arm()
    (armed,) = plan.reports.take()
    assert isinstance(armed, Armed)
    assert armed.finish_reason is FinishReason.LENGTH
    assert plan.next_step() is None
    assert plan.num_free_blocks == 8


def test_arming_twice_counts_once() -> None:
    plan = Plan()
    plan.run()
    plan.arm(first_token_id=51)
    assert plan.reports.take() == []
    assert plan.snapshot().sequences[0].token_ids == (50,)


def test_nothing_is_armed_without_its_first_token() -> None:
    plan = Plan()
    plan.reserve()
    plan.apply(Admit(1))
    plan.reservation_complete(plan.reservation(plan.grants[1].transfer_id, 1))
    assert plan.next_step() is None


def test_who_is_armed_during_a_step_joins_the_next() -> None:
    plan = Plan()
    plan.run(1)
    first = plan.start()
    plan.run(2)
    assert the_step(plan.done(first, 60)).sequence_ids == (1,)
    second = plan.start()
    assert ids(second) == [1, 2]
    assert the_step(plan.done(second, 61, 71)).positions == (7, 6)


def test_commands_for_unknown_sequences_are_ignored() -> None:
    plan = Plan()
    plan.apply(Admit(9))
    plan.apply(Remove(9))
    assert plan.reports.take() == []


def test_a_sequence_of_which_something_is_not_known_fails_alone() -> None:
    plan = Plan()
    plan.run(1)
    plan.run(2)
    for sequence_id in (2, 3):
        plan.apply(Unreadable(sequence_id, "of a later version"))
    plan.apply(Admit(3))
    assert plan.reports.take() == [
        SequenceFailed(sequence_id, "MISMATCH", "of a later version") for sequence_id in (2, 3)
    ]
    assert ids(plan.next_step()) == [1]
    assert plan.num_free_blocks == 6


# Preparing


GRAMMAR = Grammar(GrammarKind.REGEX, "a+")


@pytest.mark.parametrize("computed_here", [False, True])
def test_a_sequence_is_in_no_step_before_the_engine_is_prepared_for_it(
    computed_here: bool,
) -> None:
    plan = Plan(num_blocks=20)
    (plan.compute if computed_here else plan.run)(1, grammar=GRAMMAR)
    plan.run(2)
    (preparation,) = plan.preparations.take_due()
    assert (preparation.sequence_id, preparation.params.grammar) == (1, GRAMMAR)
    assert plan.preparations.take_due() == []
    step = plan.start()
    assert ids(step) == [2]
    plan.prepared(preparation, None)
    plan.done(step, 60)
    assert sorted(ids(plan.next_step())) == [1, 2]


@pytest.mark.parametrize("admitted", [False, True])
@pytest.mark.parametrize("computed_here", [False, True])
def test_what_cannot_be_prepared_for_fails(admitted: bool, computed_here: bool) -> None:
    plan = Plan()
    plan.reserve(grammar=GRAMMAR)
    if admitted:
        plan.apply(Admit(1, compute=computed_here))
    plan.prepared(*plan.preparations.take_due(), InvalidRequest("too complex"))
    assert plan.reports.take() == [SequenceFailed(1, "INVALID_REQUEST", "too complex")]
    plan.apply(Admit(1, compute=computed_here))
    assert plan.reports.take() == []
    assert plan.next_step() is None
    assert plan.num_free_blocks == 8


def test_what_was_prepared_for_somebody_else_changes_nothing() -> None:
    plan = Plan()
    plan.run(grammar=GRAMMAR)
    (late,) = plan.preparations.take_due()
    plan.clear()
    plan.run(grammar=GRAMMAR)
    plan.prepared(late, InvalidRequest("too complex"))
    assert plan.reports.take() == []
    assert plan.next_step() is None
    plan.prepared(*plan.preparations.take_due(), None)
    assert ids(plan.next_step()) == [1]


def test_what_was_removed_needs_no_preparing() -> None:
    plan = Plan()
    plan.reserve(grammar=GRAMMAR)
    plan.apply(Remove(1))
    assert plan.preparations.take_due() == []


# Steps and ends


def test_a_step_is_reported_in_columns() -> None:
    plan = Plan()
    plan.run()
    assert plan.done(plan.start(), 60) == [StepDone(1, 10, 20, (1,), (6,), (60,), (None,))]
    assert plan.done(plan.start(), 61) == [StepDone(2, 10, 20, (1,), (7,), (61,), (None,))]


@pytest.mark.parametrize(
    ("token_id", "details", "max_model_len", "reason"),
    [
        (EOS, {}, 100, FinishReason.STOP),
        (STOP, {}, 100, FinishReason.STOP),
        (60, {"max_tokens": 2}, 100, FinishReason.LENGTH),
        (60, {"max_tokens": 3}, 100, None),
        (60, {}, 7, FinishReason.LENGTH),
        (60, {}, 8, None),
        (EOS, {"max_tokens": 2}, 100, FinishReason.STOP),
    ],
)
def test_a_sequence_ends_by_itself(
    token_id: int, details: dict[str, int], max_model_len: int, reason: FinishReason | None
) -> None:
    plan = Plan(max_model_len=max_model_len)
    plan.run(length=5, **details)
    assert the_step(plan.done(plan.start(), token_id)).finish_reasons == (reason,)
    assert (plan.next_step() is None) is (reason is not None)
    assert (plan.num_free_blocks == 8) is (reason is not None)
    # The record stays, for who has missed the report, until it is removed.
    (snapshot,) = plan.snapshot().sequences
    assert (snapshot.token_ids, snapshot.finish_reason) == ((50, token_id), reason)
    plan.apply(Remove(1))
    assert plan.snapshot().sequences == ()


def test_a_first_token_may_be_the_last() -> None:
    plan = Plan()
    plan.reserve()
    plan.apply(Admit(1))
    plan.arm(first_token_id=EOS)
    assert plan.next_step() is None
    assert plan.num_free_blocks == 8
    assert plan.snapshot().sequences[0].finish_reason is FinishReason.STOP


def test_a_sequence_removed_during_a_step_keeps_its_blocks_until_the_step_has_ended() -> None:
    plan = Plan()
    plan.run(1)
    plan.run(2)
    step = plan.start()
    plan.apply(Remove(1))
    assert plan.num_free_blocks == 4
    assert plan.snapshot().sequences[0].sequence_id == 2
    done = the_step(plan.done(step, 60, 70))
    assert (done.sequence_ids, done.token_ids) == ((2,), (70,))
    assert plan.num_free_blocks == 6
    assert ids(plan.next_step()) == [2]


def test_blocks_grow_past_the_headroom() -> None:
    plan = Plan()
    plan.run(length=4, headroom=0)
    for number in range(6):
        step = plan.start()
        (part,) = step.slices
        assert len(part.block_table) == LAYOUT.blocks_for(part.end)
        assert plan.num_free_blocks == 8 - LAYOUT.blocks_for(part.end)
        plan.done(step, 60 + number)


def test_a_failed_step_costs_its_sequences_alone() -> None:
    plan = Plan()
    plan.run(1)
    step = plan.start()
    plan.run(2)
    plan.fail(step, TandemError("the engine failed"))
    assert plan.reports.take() == [SequenceFailed(1, "INTERNAL", "the engine failed")]
    assert ids(plan.next_step()) == [2]
    assert plan.num_free_blocks == 6


def test_a_failed_step_does_not_fail_who_was_removed_meanwhile() -> None:
    plan = Plan()
    plan.run()
    step = plan.start()
    plan.apply(Remove(1))
    plan.fail(step, TandemError("the engine failed"))
    assert plan.reports.take() == []
    assert plan.num_free_blocks == 8


# A change of controllers


def test_clear_forgets_all_and_frees_what_is_not_in_a_step() -> None:
    plan = Plan()
    plan.run(1)
    step = plan.start()
    plan.reserve(2)
    plan.clear()
    assert plan.snapshot().sequences == ()
    assert plan.num_free_blocks == 6
    assert the_step(plan.done(step, 60)).sequence_ids == ()
    assert plan.num_free_blocks == 8


@pytest.mark.parametrize("fails", [True, False])
def test_a_step_of_the_old_controller_does_not_touch_the_new_ones_sequences(fails: bool) -> None:
    plan = Plan()
    plan.run(1)
    step = plan.start()
    plan.clear()
    plan.run(1)
    if fails:
        plan.fail(step, TandemError("the engine failed"))
        assert plan.reports.take() == []
    else:
        assert the_step(plan.done(step, 60)).sequence_ids == ()
    assert plan.snapshot().sequences[0].token_ids == (50,)
    step = plan.start()
    assert ids(step) == [1]
    plan.apply(Remove(1))
    plan.done(step, 0)
    assert plan.num_free_blocks == 8


def test_a_snapshot_says_all_that_is_known() -> None:
    plan = Plan()
    plan.reserve(1)
    plan.run(2, length=3)
    plan.done(plan.start(), 60)
    assert plan.snapshot() == DecodeSnapshot(
        (
            SequenceSnapshot(1, plan.grants[1], 5, (), None),
            SequenceSnapshot(2, plan.grants[2], 3, (50, 60), None),
        )
    )


# Log-probabilities


LOGPROBS = [TokenLogprobs.of(-float(n), [n], [-0.5]) for n in range(9)]


def step_with_logprobs(plan: Plan, token_id: int, logprobs: TokenLogprobs | None) -> None:
    plan.complete(plan.start(), StepResult((token_id,), (logprobs,)), 10, 20)


@pytest.mark.parametrize("num_logprobs", [None, 1])
def test_a_snapshot_repeats_what_is_not_acknowledged(num_logprobs: int | None) -> None:
    plan = Plan()
    logprobs = [None] * 4 if num_logprobs is None else LOGPROBS[:4]
    plan.reserve(length=5, logprobs=num_logprobs)
    plan.apply(Admit(1))
    reservation = plan.reservation(plan.grants[1].transfer_id, 1)
    reservation.finish(50, logprobs[0])
    plan.reservation_complete(reservation)
    for number in (1, 2):
        step_with_logprobs(plan, 50 + number, logprobs[number])
    # Reserved, armed and two steps.
    assert len(plan.reports.take()) == 3
    assert plan.reports.last_taken == 4
    step_with_logprobs(plan, 53, logprobs[3])
    grant = plan.grants[1]
    for acknowledged, left in ((0, 4), (1, 4), (2, 3), (3, 2), (3, 2), (4, 1), (5, 0)):
        plan.acknowledge(acknowledged)
        assert plan.snapshot().sequences == (
            SequenceSnapshot(
                1,
                grant,
                position=5 + 4 - left,
                token_ids=(50, 51, 52, 53)[4 - left :],
                finish_reason=None,
                logprobs=tuple(filter(None, logprobs[4 - left :])),
            ),
        )
    assert plan.reports.take()[0].logprobs == tuple(filter(None, logprobs[3:]))


def test_a_snapshot_of_many_logprobs_fits_a_message() -> None:
    """Those that do not fit are left out, which fails them, and them alone."""
    plan = Plan(num_blocks=40_000, max_num_seqs=256, max_model_len=10_000)
    many = TokenLogprobs.of(-1.5, range(30_000, 30_020), map(float, range(20)))
    for sequence_id in range(256):
        plan.reserve(sequence_id, length=1, headroom=500, max_tokens=600, logprobs=20)
        held = plan._held[sequence_id]
        for _ in range(500):
            held.sequence.token_ids.append(20_000)
            held.reported(9, many)
    snapshot = plan.snapshot()
    size = decode_snapshot_to_wire(snapshot).ByteSize()
    assert MAX_MESSAGE_BYTES / 4 < size < MAX_MESSAGE_BYTES * 3 / 4
    plan.acknowledge(9)
    assert len(plan.snapshot().sequences) == 256


# Prompts that are computed here


def chunks(plan: StepPlan) -> list[tuple[int, int, int, bool]]:
    """Sequence, start, end, and whether a token is sampled, of each slice."""
    return [
        (each.sequence_id, each.start, each.end, each.sample is not None) for each in plan.slices
    ]


def rule(budget: int, mixed: bool = True) -> SetStepRule:
    return SetStepRule(StepRule(budget, mixed))


def test_a_prompt_is_computed_here_and_its_first_token_is_one_of_the_steps() -> None:
    plan = Plan()
    plan.compute(length=5)
    step = plan.start()
    assert (step.num_prefill_tokens, chunks(step)) == (5, [(1, 0, 5, True)])
    computed = (ComputedPrompt(1, PromptTimes(10, 20, 1)),)
    assert plan.done(step, 60) == [
        StepDone(1, 10, 20, (1,), (5,), (60,), (None,), computed=computed)
    ]
    assert (plan.start().num_prefill_tokens, plan.num_free_blocks) == (0, 6)


def test_prompts_go_in_their_order_and_fill_each_step_to_the_budget() -> None:
    plan = Plan(num_blocks=20)
    plan.apply(rule(6))
    for sequence_id, length in ((1, 4), (2, 9), (3, 2)):
        plan.compute(sequence_id, length=length)
    step = plan.start()
    assert chunks(step) == [(1, 0, 4, True), (2, 0, 2, False)]
    plan.complete(step, StepResult((60, None)), 1, 2)
    step = plan.start()
    assert chunks(step) == [(1, 4, 5, True), (2, 2, 8, False)]
    assert step.num_prefill_tokens == 6
    plan.complete(step, StepResult((61, None)), 2, 3)
    step = plan.start()
    assert chunks(step) == [(1, 5, 6, True), (2, 8, 9, True), (3, 0, 2, True)]
    plan.reports.take()
    done = the_step(plan.done(step, 62, 70, 80))
    assert done.sequence_ids == (1, 2, 3)
    assert done.computed == (
        ComputedPrompt(2, PromptTimes(1, 20, 3)),
        ComputedPrompt(3, PromptTimes(10, 20, 1)),
    )


def scores(*tokens: float) -> LogprobColumns:
    """Of tokens that are so likely, each with the one that is the likeliest."""
    ids = array("I", range(len(tokens)))
    return LogprobColumns(array("f", tokens), ids, array("f", [-0.5] * len(tokens)))


def score_prompt(plan: Plan) -> list[DecodeReport]:
    """A prompt of five tokens in two steps, whose log-probabilities are asked for."""
    plan.apply(rule(4))
    plan.compute(length=5, prompt_logprobs=1)
    for targets, found in (((1, 2, 3, 4), scores(-1.0, -2.0, -3.0, -4.0)), ((), None)):
        step = plan.start()
        (only,) = step.slices
        assert only.score == (ScoreSpec(targets, 1) if targets else None)
        token_id = 60 if only.sample else None
        plan.complete(step, StepResult((token_id,), scores=(found,)), 10, 20)
    return plan.reports.take()


def test_a_prompts_logprobs_are_told_once_with_its_first_token() -> None:
    plan = Plan()
    first, told, last = score_prompt(plan)
    assert (first.computed, last.sequence_ids) == ((), (1,))
    assert last.computed == (ComputedPrompt(1, PromptTimes(10, 20, 2)),)
    assert told == PromptScores(1, scores(-1.0, -2.0, -3.0, -4.0))
    (again,) = plan.snapshot().sequences
    assert (again.position, again.token_ids) == (5, (60,))
    assert again.prompt_logprobs == told.logprobs
    plan.done(plan.start(), 61)
    assert plan.snapshot().sequences[0].prompt_logprobs == told.logprobs
    plan.acknowledge(plan.reports.last_taken - 1)
    (again,) = plan.snapshot().sequences
    assert (again.position, again.token_ids, again.prompt_logprobs) == (6, (61,), None)


def test_a_prompts_logprobs_count_in_a_snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Plan()
    score_prompt(plan)
    for most, num_told in ((9, 1), (8, 0)):
        # Eight of the prompt, and the token's own.
        monkeypatch.setattr("decode_service.telling.MAX_SNAPSHOT_LOGPROBS", most)
        assert len(plan.snapshot().sequences) == num_told


def test_however_many_logprobs_of_prompts_a_step_has_each_report_fits_a_message() -> None:
    """Of prompts as long as they may be with twenty likeliest tokens each."""
    plan = Plan(num_blocks=40_000, max_num_seqs=5, max_model_len=30_000)
    length = MAX_PROMPT_LOGPROBS // 21
    plan.apply(rule(5 * length))
    for sequence_id in range(5):
        plan.compute(sequence_id, length=length, prompt_logprobs=20)
    step = plan.start()
    own, top = array("f", [-1.0]) * (length - 1), array("f", [-0.5]) * (length - 1) * 20
    found = LogprobColumns(own, array("I", top.tobytes()), top)
    plan.complete(step, StepResult((60,) * 5, scores=(found,) * 5), 10, 20)
    sizes = [decode_report_to_wire(each).ByteSize() for each in plan.reports.take()]
    assert sum(sizes) > MAX_MESSAGE_BYTES > 2 * max(sizes)


def test_logprobs_of_a_prompt_whose_kv_comes_from_elsewhere_are_not_told_here() -> None:
    plan = Plan()
    plan.run(length=5, prompt_logprobs=1)
    assert plan.snapshot().sequences[0].prompt_logprobs is None
    step = plan.start()
    assert step.slices[0].score is None
    assert the_step(plan.done(step, 61)).computed == ()


def test_a_prompt_whose_logprobs_are_asked_for_shares_no_blocks_but_gives_its_own() -> None:
    plan = Plan(num_blocks=20, prefix_caching=True)
    for sequence_id, asked, num_cached in ((1, 1, 0), (2, 1, 0), (3, None, 8)):
        plan.compute(sequence_id, length=9, prompt_logprobs=asked)
        assert plan.grants[sequence_id].num_cached_tokens == num_cached
        step = plan.start()
        assert step.slices[-1].start == num_cached
        found = scores(*[-1.0] * 8) if asked else None
        tokens = (60,) * len(step.slices)
        plan.complete(step, StepResult(tokens, scores=(*[None] * (len(tokens) - 1), found)), 1, 2)


def test_while_nothing_runs_a_step_has_the_tokens_of_an_idle_one() -> None:
    plan = Plan(num_blocks=20)
    plan.apply(SetStepRule(StepRule(1, mixed=True, idle_token_budget=6)))
    plan.compute(1, length=20)
    step = plan.start()
    assert chunks(step) == [(1, 0, 6, False)]
    plan.done(step, None)
    plan.run(2)
    step = plan.start()
    assert (ids(step), step.num_prefill_tokens) == ([2, 1], 1)
    plan.done(step, 60, None)
    plan.apply(Remove(2))
    assert chunks(plan.start()) == [(1, 7, 13, False)]


def test_unmixed_steps_let_the_running_wait_for_every_prompt() -> None:
    plan = Plan(num_blocks=20)
    plan.run(1)
    plan.apply(rule(4, mixed=False))
    plan.compute(2, length=6)
    step = plan.start()
    assert chunks(step) == [(2, 0, 4, False)]
    assert the_step(plan.done(step, None)).sequence_ids == ()
    step = plan.start()
    assert chunks(step) == [(2, 4, 6, True)]
    plan.done(step, 60)
    assert ids(plan.next_step()) == [1, 2]


def test_the_rule_is_the_controllers_and_ends_with_it() -> None:
    plan = Plan(num_blocks=20)
    plan.apply(rule(4, mixed=False))
    plan.clear()
    plan.compute(length=6)
    assert plan.start().num_prefill_tokens == 6


def test_no_frame_may_come_where_the_engine_writes() -> None:
    plan = Plan()
    plan.compute()
    grant = plan.grants[1]
    with pytest.raises(Fenced):
        plan.reservation(grant.transfer_id, grant.epoch)


def test_a_stream_that_was_open_before_writes_no_more_where_the_engine_does() -> None:
    plan = Plan()
    plan.reserve()
    reservation = plan.reservation(plan.grants[1].transfer_id, plan.grants[1].epoch)
    reservation.begin_write()
    plan.apply(Admit(1, compute=True))
    for act in (reservation.begin_write, reservation.check_open):
        with pytest.raises(Fenced):
            act()
    # The frame that is being stored yet would be written over what the engine computes.
    assert plan.next_step() is None
    reservation.end_write()
    assert ids(plan.next_step()) == [1]
    plan.apply(Remove(1))
    assert plan.num_free_blocks == 6


@pytest.mark.parametrize("during_its_step", [False, True])
def test_a_prompt_that_is_removed_is_computed_no_further(during_its_step: bool) -> None:
    plan = Plan()
    plan.apply(rule(4))
    plan.compute(length=9)
    if during_its_step:
        step = plan.start()
        plan.apply(Remove(1))
        assert plan.num_free_blocks < 8
        assert the_step(plan.done(step, None)).sequence_ids == ()
    else:
        plan.apply(Remove(1))
    assert plan.next_step() is None
    assert plan.num_free_blocks == 8


def test_a_first_token_computed_here_may_be_the_last() -> None:
    plan = Plan()
    plan.compute()
    assert the_step(plan.done(plan.start(), EOS)).finish_reasons == (FinishReason.STOP,)
    assert plan.next_step() is None
    assert plan.num_free_blocks == 8


def test_a_token_that_cannot_be_sampled_costs_its_own_sequence() -> None:
    plan = Plan(num_blocks=20)
    plan.run(1)
    plan.compute(2)
    plan.compute(3)
    failures = (None, InvalidRequest("the grammar is too complex"), None)
    plan.complete(plan.start(), StepResult((60, None, 70), failures=failures), 1, 2)
    failed, *step = plan.reports.take()
    assert failed == SequenceFailed(2, "INVALID_REQUEST", "the grammar is too complex")
    assert the_step(step).sequence_ids == (1, 3)
    assert ids(plan.next_step()) == [1, 3]


def test_a_repeated_admission_starts_nothing_again() -> None:
    plan = Plan()
    plan.compute()
    plan.done(plan.start(), 60)
    plan.apply(Admit(1, compute=True))
    assert chunks(plan.start()) == [(1, 5, 6, True)]
