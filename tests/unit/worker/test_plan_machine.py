"""A decode worker's blocks, whatever comes in whatever order: reservations, steps that run ahead of
each other, failures, and sequences on their way to the host's memory and back."""

from __future__ import annotations

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from standing_plan_driver import EOS, Plan

from tandem.core.commands import Admit, Remove, SetRecomputeCost, SetStepRule
from tandem.core.errors import EngineFailed
from tandem.core.plan import StepPlan, StepResult, StepRule
from tandem.core.reports import Reserved

TOKENS = st.sampled_from([5, 6])
SAMPLED = st.sampled_from([*range(50, 65), EOS])
RARELY = st.sampled_from([*[False] * 9, True])


class PlanMachine(RuleBasedStateMachine):
    """`under_way` are the steps that the engine has, at most two."""

    plan: Plan
    num_blocks: int

    @initialize(
        num_blocks=st.integers(5, 8),
        prefix_caching=st.booleans(),
        max_parked_bytes=st.sampled_from([10**6, 60, 0]),
    )
    def begin(self, num_blocks: int, prefix_caching: bool, max_parked_bytes: int) -> None:
        self.num_blocks = num_blocks
        self.plan = Plan(
            num_blocks=num_blocks,
            max_num_seqs=6,
            max_model_len=24,
            prefix_caching=prefix_caching,
            max_parked_bytes=max_parked_bytes,
        )
        self.under_way: list[StepPlan] = []
        self.num_sequences = 0
        # There is soon too little for them.
        for length in (3, 6, 4):
            self.come((5,) * length, headroom=0, rank=0, runs=True)

    # What the controller says

    @rule(
        prompt=st.lists(TOKENS, min_size=1, max_size=14).map(tuple),
        headroom=st.sampled_from([0, 1, 4]),
        rank=st.integers(0, 2),
        runs=st.booleans(),
    )
    def come(self, prompt: tuple[int, ...], headroom: int, rank: int, runs: bool) -> None:
        """Who has ended leaves; a sequence is reserved for, and perhaps runs at once."""
        for held in list(self.plan._held.values()):
            if held.ended:
                self.plan.apply(Remove(held.sequence.sequence_id))
        self.num_sequences += 1
        reports = self.plan.reserve(
            self.num_sequences, prompt=prompt, headroom=headroom, preemption_rank=(rank,)
        )
        if runs and any(isinstance(each, Reserved) for each in reports):
            self.plan.apply(Admit(self.num_sequences))
            self.plan.arm(self.num_sequences)

    @precondition(lambda self: self.plan._held)
    @rule(data=st.data(), compute=st.booleans())
    def admit(self, data: st.DataObject, compute: bool) -> None:
        sequence_id = data.draw(st.sampled_from(list(self.plan._held)))
        self.plan.apply(Admit(sequence_id, compute=compute))

    @precondition(lambda self: self.plan._held)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        sequence_id = data.draw(st.sampled_from(list(self.plan._held)))
        self.plan.apply(Remove(sequence_id))

    @rule(
        token_s=st.sampled_from([0.0, 1e-12, 1.0]),
        budget=st.sampled_from([0, 2, 9]),
        mixed=st.booleans(),
    )
    def tell(self, token_s: float, budget: int, mixed: bool) -> None:
        self.plan.apply(SetRecomputeCost(token_s))
        self.plan.apply(SetStepRule(StepRule(budget, mixed)))

    @rule(is_wanted=RARELY)
    def lose_the_controller(self, is_wanted: bool) -> None:
        if is_wanted:
            self.plan.clear()

    # What the worker does

    @precondition(lambda self: self.plan._reservations)
    @rule(data=st.data(), token_id=SAMPLED)
    def arm(self, data: st.DataObject, token_id: int) -> None:
        reservation = data.draw(st.sampled_from(list(self.plan._reservations.values())))
        reservation.num_missing = 0
        reservation.finish(reservation.first_token_id or token_id, None)
        self.plan.reservation_complete(reservation)

    @rule(data=st.data(), count=st.integers(1, 8), moves=st.booleans())
    def step(self, data: st.DataObject, count: int, moves: bool) -> None:
        """Some steps, each behind the one before if that is known; KV moves beside them."""
        for _ in range(count):
            if len(self.under_way) == 2:
                self.land(data)
            before = list(self.under_way)
            self.launch()
            if before and self.under_way == before:
                self.land(data)
            if moves and self.plan.moves:
                self.move()

    @precondition(lambda self: len(self.under_way) < 2)
    @rule()
    def launch(self) -> None:
        plan = self.plan.next_step_ahead() if self.under_way else self.plan.next_step()
        if plan:
            self.under_way.append(plan)

    @precondition(lambda self: self.under_way)
    @rule(data=st.data())
    def land(self, data: st.DataObject) -> None:
        plan = self.under_way.pop(0)
        tokens = (data.draw(SAMPLED) if each.sample else None for each in plan.slices)
        self.plan.complete(plan, StepResult(tuple(tokens)), 1, 2)

    @precondition(lambda self: self.under_way)
    @rule(which=st.sampled_from([0, -1]), is_wanted=RARELY)
    def fail(self, which: int, is_wanted: bool) -> None:
        if is_wanted:
            self.plan.fail(self.under_way.pop(which), EngineFailed("the engine failed"))

    @precondition(lambda self: self.plan.moves)
    @rule()
    def move(self) -> None:
        self.plan.move(seconds=1e-9)

    @precondition(lambda self: self.plan.moves)
    @rule()
    def fail_to_move(self) -> None:
        self.plan.moved(self.plan.moves.pop(0), None, 1.0)

    # What must hold

    @invariant()
    def blocks_in_use_are_held(self) -> None:
        is_held = self.plan._allocator.is_held
        for plan in self.under_way:
            assert all(is_held(block) for each in plan.slices for block in each.block_table)
        for move in self.plan.moves:
            assert move.blocks.ids and all(map(is_held, move.blocks.ids))

    @invariant()
    def what_is_written_has_one_owner(self) -> None:
        held = (each.blocks for each in self.plan._held.values())
        own = Counter(block for blocks in held for block in blocks.ids[blocks.num_shared :])
        assert all(count == 1 for count in own.values())

    @invariant()
    def blocks_are_held_or_free(self) -> None:
        allocator = self.plan._allocator
        num_held = sum(map(allocator.is_held, range(self.num_blocks)))
        assert num_held + allocator.num_free == self.num_blocks

    @invariant()
    def the_parked_are_counted_right(self) -> None:
        parking = self.plan._parking
        awaited = (each.num_awaited_blocks for each in parking._parked.values())
        assert parking.num_awaited_blocks == sum(awaited)

    def teardown(self) -> None:
        if not hasattr(self, "plan"):
            return
        self.plan.clear()
        for plan in self.under_way:
            self.plan.complete(plan, StepResult((None,) * len(plan.slices)), 1, 2)
        while self.plan.moves:
            self.plan.move()
        assert self.plan.num_free_blocks == self.plan._allocator.num_free == self.num_blocks
        assert not (self.plan._parking.has_parked or self.plan._reservations)


TestPlanMachine = PlanMachine.TestCase
TestPlanMachine.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
