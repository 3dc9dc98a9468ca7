"""What a decode worker does when its blocks run out, and how a sequence goes on elsewhere."""

from __future__ import annotations

from standing_plan_driver import EOS, LAYOUT, Plan, ids, the_step

from tandem.core.commands import Admit, Remove, Reserve
from tandem.core.reports import Armed, Preempted, SequenceFailed
from tandem.core.sampling_params import SamplingParams
from tandem.core.sequence import FinishReason, SequenceKey


def test_the_highest_ranked_gives_its_blocks_to_the_others() -> None:
    plan = Plan(num_blocks=3)
    plan.run(1, length=4, headroom=0, preemption_rank=(1.0, 0.0))
    plan.run(2, length=4, headroom=4, preemption_rank=(0.0, 9.0))
    step = plan.start()
    assert ids(step) == [2]
    assert plan.reports.take() == [Preempted(1)]
    assert plan.num_free_blocks == 1
    assert [each.sequence_id for each in plan.snapshot().sequences] == [2]


def test_of_equals_the_newest_is_preempted() -> None:
    plan = Plan(num_blocks=3)
    plan.run(1, length=4, headroom=0)
    plan.run(2, length=4, headroom=4)
    assert ids(plan.start()) == [1]
    assert plan.reports.take() == [Preempted(2)]


def test_no_more_are_preempted_than_must_be() -> None:
    plan = Plan(num_blocks=5)
    for sequence_id in (1, 2, 3):
        plan.run(sequence_id, length=4, headroom=0)
    assert ids(plan.start()) == [1, 2]
    assert plan.reports.take() == [Preempted(3)]


def test_the_best_waits_for_what_others_reserved() -> None:
    plan = Plan(num_blocks=3)
    plan.run(1, length=4, headroom=0)
    plan.reserve(2, length=4, headroom=4)
    assert plan.next_step() is None
    assert plan.reports.take() == []
    plan.arm(2)
    plan.apply(Admit(2))
    assert ids(plan.start()) == [1]
    assert isinstance(plan.reports.take()[0], Armed)


def test_what_becomes_free_is_for_who_waits_and_not_for_who_comes() -> None:
    plan = Plan(num_blocks=3)
    plan.run(1, length=8, headroom=0)
    plan.reserve(2, length=4, headroom=0)
    assert plan.next_step() is None
    plan._remove(2)
    assert plan.num_free_blocks == 0
    (refusal,) = plan.reserve(3, length=4, headroom=0)
    assert isinstance(refusal, SequenceFailed)
    step = plan.start()
    assert ids(step) == [1]
    plan.done(step, 60)
    assert plan.num_free_blocks == 0


def test_what_nobody_waits_for_any_more_is_free() -> None:
    plan = Plan(num_blocks=3)
    plan.run(1, length=8, headroom=0)
    plan.reserve(2, length=4, headroom=0)
    assert plan.next_step() is None
    plan._remove(1)
    assert plan.next_step() is None
    assert plan.num_free_blocks == 2


def resume(plan: Plan, prompt: range, *generated: int, **params: int) -> None:
    plan.apply(
        Reserve(
            9,
            SequenceKey("r", attempt=1),
            tuple(prompt),
            headroom_tokens=4,
            params=SamplingParams(seed=0, **params),
            generated_token_ids=generated,
        )
    )
    (plan.grants[9],) = plan.reports.take()  # type: ignore[assignment]


def test_a_sequence_goes_on_behind_what_was_generated() -> None:
    plan = Plan()
    resume(plan, range(5), 50, 51, max_tokens=4)
    plan.apply(Admit(9))
    assert plan.snapshot().sequences[0].token_ids == ()
    plan.arm(9, first_token_id=52)
    (armed,) = plan.reports.take()
    assert (armed.position, armed.finish_reason) == (7, None)
    (snapshot,) = plan.snapshot().sequences
    assert (snapshot.position, snapshot.token_ids) == (7, (52,))
    step = plan.start()
    (part,) = step.slices
    assert (part.start, list(part.token_ids)) == (7, [52])
    assert list(part.sample.token_ids) == [50, 51, 52]
    done = the_step(plan.done(step, 53))
    assert (done.positions, done.finish_reasons) == ((8,), (FinishReason.LENGTH,))


def test_a_sequence_that_is_computed_here_computes_what_was_generated_too() -> None:
    plan = Plan()
    resume(plan, range(5), 50, 51, max_tokens=9)
    plan.apply(Admit(9, compute=True))
    step = plan.start()
    (part,) = step.slices
    assert list(part.token_ids) == [0, 1, 2, 3, 4, 50, 51]
    assert len(part.block_table) == LAYOUT.blocks_for(7)
    done = the_step(plan.done(step, EOS))
    assert (done.positions, done.finish_reasons) == ((7,), (FinishReason.STOP,))


def test_slots_that_no_token_uses_are_counted() -> None:
    plan = Plan()
    plan.run(1, length=4, headroom=0)
    assert plan.num_unused_slots == 0, "the first token has no slot yet"
    plan.run(2, length=5, headroom=6)
    assert plan.num_unused_slots == 12 - 6
    step = plan.start()
    plan.done(step, 60, 61)
    assert plan.num_unused_slots == (8 - 6) + (12 - 7)
    plan.apply(Remove(2))
    assert plan.num_unused_slots == 2
