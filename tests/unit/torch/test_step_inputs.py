"""What lasts from step to step is what would be built anew, whoever joins, grows or leaves."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.core.errors import InvalidRequest, Mismatch
from tandem.core.plan import PENDING, SampleSpec, ScoreSpec, SequenceSlice, StepPlan
from tandem.core.sampling_params import SamplingParams
from tandem.engine.torch.block_tables import BlockTables
from tandem.engine.torch.flat_rows import FlatRows
from tandem.engine.torch.native_inputs import NativeInputBuilder
from tandem.engine.torch.plan_check import PlanCheck

BLOCK_SIZE = 4
NUM_BLOCKS = 1000
MAX_LENGTH = 60
SEEDS = st.integers(0, 2**32)
GREEDY = SampleSpec(SamplingParams(max_tokens=1, seed=0, temperature=0.0))


@dataclass
class Running:
    """A sequence with blocks of its own: where it stands, and which of its tables this is."""

    sequence_id: int
    end: int = 0
    table_id: int = 0

    def next_slice(self, count: int) -> SequenceSlice:
        start, self.end = self.end, self.end + count
        tokens = tuple(self.sequence_id + position for position in range(start, self.end))
        num_blocks = -(-self.end // BLOCK_SIZE)
        first = 16 * ((7 * self.sequence_id + 3 * self.table_id) % 60)
        table = tuple(range(first, first + num_blocks))
        sample = GREEDY if count == 1 else None
        score = ScoreSpec(tokens[1:], 0) if self.sequence_id % 4 == 0 and count > 1 else None
        return SequenceSlice(self.sequence_id, tokens, start, table, sample, self.table_id, score)


def plans_of(draw: Random, num_steps: int) -> list[StepPlan]:
    """Steps in which sequences join, go on by some tokens, move to other blocks, pause, leave, and
    stand in any order."""
    running: list[Running] = []
    plans = []
    for number in range(num_steps):
        running += [Running(100 * number + index) for index in range(draw.randrange(3))]
        draw.shuffle(running)
        for each in running:
            each.table_id += draw.random() < 0.1
        slices = [
            each.next_slice(draw.choice((1, 1, 1, 2, 9)))
            for each in running[draw.randrange(3) :]
            if each.end + 9 <= MAX_LENGTH
        ]
        running = [each for each in running if draw.random() > 0.15]
        if slices:
            plans.append(StepPlan(number, tuple(slices)))
    return plans


@given(SEEDS)
def test_rows_are_the_slices_tokens_one_after_the_other(seed: int) -> None:
    for plan in plans_of(Random(seed), 6):
        flat, slices = FlatRows.of(plan), plan.slices
        places = [
            (index, position)
            for index, each in enumerate(slices)
            for position in range(each.start, each.end)
        ]
        assert list(zip(flat.owners, flat.positions, strict=True)) == places
        assert flat.token_ids.tolist() == [token for each in slices for token in each.token_ids]
        assert flat.spans.lengths.tolist() == [len(each.token_ids) for each in slices]
        assert flat.spans.starts.tolist() == [each.start for each in slices]
        width = max(len(each.block_table) for each in slices)
        tables = np.array([(*each.block_table, *[0] * width)[:width] for each in slices])
        assert flat.slots(tables, BLOCK_SIZE).tolist() == [
            slices[index].block_table[position // BLOCK_SIZE] * BLOCK_SIZE + position % BLOCK_SIZE
            for index, position in places
        ]


@given(SEEDS)
def test_rows_that_somebody_asks_for_are_the_last_ones_of_their_slices(seed: int) -> None:
    for plan in plans_of(Random(seed), 6):
        flat, slices = FlatRows.of(plan), plan.slices
        places = [
            (index, position)
            for index, each in enumerate(slices)
            for position in range(each.end - each.num_logits, each.end)
        ]
        rows = np.arange(len(flat.token_ids)) if flat.asked is None else flat.asked
        assert list(zip(flat.owners[rows], flat.positions[rows], strict=True)) == places
        assert flat.asked_spans.lengths.tolist() == [each.num_logits for each in slices]
        firsts = [each.end - each.num_logits for each in slices]
        assert flat.asked_spans.starts.tolist() == firsts
        lasts = [(index, each.end - 1) for index, each in enumerate(slices) if each.sample]
        assert [places[row] for row in flat.logit_rows] == lasts


def test_a_slices_logits_are_its_last_or_those_that_are_scored() -> None:
    each = SequenceSlice(3, (5, 6, 7), 0, (0,), None)
    assert each.num_logits == 0
    assert each._replace(sample=GREEDY).num_logits == 1
    assert each._replace(score=ScoreSpec((6, 7), 0)).num_logits == 3


@given(SEEDS)
def test_inputs_are_those_that_are_built_anew(seed: int) -> None:
    draw, builder = Random(seed), NativeInputBuilder(BLOCK_SIZE)
    for plan in plans_of(draw, 12):
        kept = builder.build(plan)
        anew = NativeInputBuilder(BLOCK_SIZE).build(plan)
        assert kept.slots.tolist() == anew.slots.tolist()
        for tables in (kept.tables, anew.tables):
            assert tables.flags.c_contiguous
            for row, each in zip(tables, plan.slices, strict=True):
                assert tuple(row[: len(each.block_table)]) == each.block_table


@given(SEEDS)
def test_tables_of_a_fixed_room_are_right_too(seed: int) -> None:
    """As steps that are replayed on a GPU have them, two arrays in turn."""
    tables = [BlockTables(np.zeros((24, 15), np.int32)) for _ in range(2)]
    for plan in plans_of(Random(seed), 12):
        tables.reverse()
        tables[0].write(plan.slices)
        for row, each in zip(tables[0].rows, plan.slices, strict=False):
            assert tuple(row[: len(each.block_table)]) == each.block_table


def test_a_table_that_lasts_is_read_where_it_has_grown() -> None:
    class Table(tuple[int, ...]):
        """Says from where on it is read."""

        def __getitem__(self, part):  # type: ignore[no-untyped-def]
            read.append(part.start)
            return super().__getitem__(part)

    def step(*num_blocks: int) -> list[int]:
        read.clear()
        slices = [
            SequenceSlice(index, (1,), 4 * count - 1, Table(range(count)), None)
            for index, count in enumerate(num_blocks)
        ]
        tables.write(slices)
        check.check(StepPlan(1, tuple(slices)))
        return list(read)

    read: list[int] = []
    tables = BlockTables(np.zeros((4, 15), np.int32))
    check = checker()
    assert step(3, 5) == [0, 0, 0, 0]
    assert step(3, 5) == []
    assert step(3, 6) == [5, 5]


def checker() -> PlanCheck:
    return PlanCheck(
        vocab_size=2000, max_model_len=MAX_LENGTH, block_size=BLOCK_SIZE, num_blocks=NUM_BLOCKS
    )


@given(SEEDS)
def test_a_plan_is_found_wrong_wherever_it_has_changed(seed: int) -> None:
    """What joins and what grows is looked at, whatever came before."""
    draw, check = Random(seed), checker()
    known: dict[tuple[int, int], int] = {}
    for plan in plans_of(draw, 8):
        index = draw.randrange(len(plan.slices))
        each = plan.slices[index]
        table, num_known = each.block_table, known.get((each.sequence_id, each.table_id), 0)
        wrongs = [(each._replace(token_ids=(2000,) * len(each.token_ids)), InvalidRequest)]
        if num_known < len(table):
            place = draw.randrange(num_known, len(table))
            wrong = draw.choice((-1, NUM_BLOCKS))
            bad = (*table[:place], wrong, *table[place + 1 :])
            wrongs.append((each._replace(block_table=bad), Mismatch))
        wrongs.append((each._replace(block_table=table[: (each.end - 1) // BLOCK_SIZE]), Mismatch))
        for wrong_slice, error in wrongs:
            slices = (*plan.slices[:index], wrong_slice, *plan.slices[index + 1 :])
            with pytest.raises(error, match=f"sequence {each.sequence_id}"):
                check.check(StepPlan(plan.number, slices))
        check.check(plan)
        known = {(one.sequence_id, one.table_id): len(one.block_table) for one in plan.slices}


def test_a_token_may_be_pending_only_where_the_last_step_samples_it() -> None:
    each = SequenceSlice(3, (PENDING,), 0, (0,), GREEDY)
    checker().check(StepPlan(1, (each,)), pending={3})
    for pending in ((), {4}):
        with pytest.raises(InvalidRequest):
            checker().check(StepPlan(1, (each,)), pending=pending)
    with pytest.raises(InvalidRequest):
        checker().check(StepPlan(1, (each._replace(token_ids=(PENDING, 1)),)), pending={3})
