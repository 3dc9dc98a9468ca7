"""A worker's mistakes are named where they happen."""

import pytest

from tandem.core.errors import TandemError
from tandem.core.plan import StepPlan


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"token_ids": [1], "start": -1}, "sequence 0 starts at -1"),
        ({"token_ids": []}, "sequence 0 has no tokens"),
        ({"token_ids": range(9)}, "sequence 0 ends at 9, but its blocks hold 8"),
        ({"token_ids": [1], "start": 1024}, "sequence 0 ends at 1025, past the model's 1024"),
        ({"token_ids": [-1]}, "sequence 0 has tokens outside a vocabulary of"),
        ({"token_ids": [2**31]}, "sequence 0 has tokens outside a vocabulary of"),
        ({"token_ids": [1], "block_table": [64]}, "block 64 is not in a pool of 64"),
        ({"token_ids": [1], "block_table": [-1]}, "block -1 is not in a pool of 64"),
        ({"token_ids": range(5), "block_table": [3, 3]}, "block 3 is written twice by step 6"),
        ({"token_ids": [1], "start": 6}, "token 0 of block 2 is read, but was never written"),
    ],
)
def test_a_wrong_slice(make_engine, make_slice, given, message):
    part = make_slice(**({"block_table": [2, 3]} | given))
    with pytest.raises(TandemError, match=message):
        make_engine().launch(StepPlan(6, (part,)))


def test_two_slices_that_write_one_block(make_engine, make_slice):
    slices = tuple(make_slice([1, 2], [5], sequence_id=n) for n in range(2))
    with pytest.raises(TandemError, match="block 5 is written twice by step 1"):
        make_engine().launch(StepPlan(1, slices))


def test_two_slices_may_read_one_block(make_engine, make_slice):
    engine = make_engine()
    engine.launch(StepPlan(0, (make_slice([1, 2, 3, 4], [5]),)))
    slices = tuple(make_slice([9], [5, n], start=4, sequence_id=n) for n in range(2))
    first, second = engine.launch(StepPlan(1, slices)).result().tokens
    assert first == second


def test_a_refused_step_takes_no_time(make_engine, make_slice, clock):
    engine = make_engine(clock=clock)
    with pytest.raises(TandemError):
        engine.launch(StepPlan(0, (make_slice([], [5]),)))
    assert engine.launch(StepPlan(1, (make_slice([1], [5]),))).done_at == 0.0
