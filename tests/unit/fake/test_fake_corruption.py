"""Whatever goes wrong with KV on its way must show in the output."""

import random

import numpy as np
import pytest

from tandem.core.plan import StepPlan
from tandem.core.sampling_params import SamplingParams
from tandem.engine.fake.content import expected_tokens, items

BLOCK_SIZE = 4
TABLE = [11, 3, 8, 5, 14, 0]
NUM_TOKENS = len(TABLE) * BLOCK_SIZE - 1
OTHER_TABLE = [1, 2, 4, 6, 7, 9]
TRIALS = 200


def swap_blocks(pool, rng):
    a, b = rng.sample(TABLE, 2)
    pool.array[:, :, [a, b]] = pool.array[:, :, [b, a]]


def duplicate_block(pool, rng):
    a, b = rng.sample(TABLE, 2)
    pool.array[:, :, a] = pool.array[:, :, b]


def zero_block(pool, rng):
    pool.array[:, :, rng.choice(TABLE)] = 0


def zero_block_of_one_layer_and_plane(pool, rng):
    pool.array[rng.randrange(2), rng.randrange(4), rng.choice(TABLE)] = 0


def stale_block(pool, rng):
    place = rng.randrange(len(TABLE))
    pool.array[:, :, TABLE[place]] = pool.array[:, :, OTHER_TABLE[place]]


def swap_layers(pool, rng):
    a, b = rng.sample(range(4), 2)
    pool.array[:, [a, b]] = pool.array[:, [b, a]]


def swap_planes(pool, rng):
    pool.array[:] = pool.array[::-1].copy()


def flip_bit(pool, rng):
    token = rng.randrange(NUM_TOKENS)
    block, offset = TABLE[token // BLOCK_SIZE], token % BLOCK_SIZE
    place = (rng.randrange(2), rng.randrange(4), block, offset, 0, rng.randrange(8))
    pool.array[place] ^= np.uint16(1 << rng.randrange(16))


def shift_positions(pool, rng):
    """Every token's KV sits one position too late."""
    flat = pool.array[:, :, TABLE].reshape(2, 4, -1, 1, 8)
    flat[:, :, 1:] = flat[:, :, :-1].copy()
    pool.array[:, :, TABLE] = flat.reshape(2, 4, len(TABLE), BLOCK_SIZE, 1, 8)


def count_positions_from_one(pool, rng):
    """The right tokens in the right places, computed for the next position."""
    tokens = random.Random(rng.seed_of_tokens).choices(range(60_000), k=NUM_TOKENS)
    kv = items(tokens, np.arange(NUM_TOKENS) + 1)
    for n in range(NUM_TOKENS):
        pool.array[:, :, TABLE[n // BLOCK_SIZE], n % BLOCK_SIZE] = kv[:, :, n]


CORRUPTIONS = [
    swap_blocks,
    duplicate_block,
    zero_block,
    zero_block_of_one_layer_and_plane,
    stale_block,
    swap_layers,
    swap_planes,
    flip_bit,
    shift_positions,
    count_positions_from_one,
]


def nothing(pool, rng):
    pass


def next_token(make_engine, make_slice, corrupt, trial: int, verify="full") -> tuple[int, int]:
    """The token found and the token expected, if `corrupt` strikes between prefill and decode."""
    rng = random.Random(trial)
    rng.seed_of_tokens = trial + 1
    tokens = random.Random(rng.seed_of_tokens).choices(range(60_000), k=NUM_TOKENS)
    other = rng.choices(range(60_000), k=NUM_TOKENS)
    engine = make_engine(block_size=BLOCK_SIZE, num_blocks=16, verify=verify)
    prompts = (
        make_slice(tokens, TABLE, params=None),
        make_slice(other, OTHER_TABLE, sequence_id=1, params=None),
    )
    engine.launch(StepPlan(0, prompts))
    corrupt(engine.pool, rng)
    step = StepPlan(1, (make_slice([77], TABLE, start=NUM_TOKENS),))
    params = SamplingParams(max_tokens=1, seed=0, temperature=0.0)
    expected = expected_tokens([*tokens, 77], params, 1, output_token_ids=(0, 2**31))
    return engine.launch(step).result().tokens[0], expected[0]


@pytest.mark.parametrize("verify", ["full", "incremental"])
def test_nothing_happened(make_engine, make_slice, verify):
    found, expected = next_token(make_engine, make_slice, nothing, 0, verify)
    assert found == expected


@pytest.mark.parametrize("corrupt", CORRUPTIONS)
def test_each_corruption_changes_the_output(make_engine, make_slice, corrupt):
    for trial in range(TRIALS):
        found, expected = next_token(make_engine, make_slice, corrupt, trial)
        assert found != expected, f"trial {trial}"


@pytest.mark.parametrize("corrupt", CORRUPTIONS)
def test_incremental_reading_sees_it_at_the_first_read(make_engine, make_slice, corrupt):
    for trial in range(20):
        found, expected = next_token(make_engine, make_slice, corrupt, trial, "incremental")
        assert found != expected, f"trial {trial}"


@pytest.mark.parametrize(("verify", "same"), [("full", False), ("incremental", True)])
def test_only_full_reading_sees_a_block_change_after_it_was_read(
    make_engine, make_slice, verify, same
):
    tokens = list(range(10))
    params = SamplingParams(max_tokens=2, seed=0, temperature=0.0)
    expected = expected_tokens(tokens, params, 2, output_token_ids=(0, 2**31))
    engine = make_engine(verify=verify)
    first = engine.launch(StepPlan(0, (make_slice(tokens, [5, 6, 7]),))).result().tokens[0]
    engine.pool.array[:, :, 5] = 0
    step = StepPlan(1, (make_slice([first], [5, 6, 7], start=10),))
    assert (engine.launch(step).result().tokens[0] == expected[1]) == same


@pytest.mark.parametrize("start", [4, 8])
def test_incremental_reading_begins_anew_when_a_sequence_goes_back(make_engine, make_slice, start):
    engine, tokens = make_engine(verify="incremental"), list(range(10))
    before = engine.launch(StepPlan(0, (make_slice(tokens, [5, 6, 7]),))).result()
    engine.pool.array[:, :, 5] = 0
    again = make_slice(tokens[start:], [5, 6, 7], start=start)
    assert engine.launch(StepPlan(1, (again,))).result() != before


def test_even_in_a_range_of_two_tokens_a_flipped_top_bit_can_show(make_engine, make_slice):
    """The digest is mixed before it is reduced, so that its high bits count as well."""
    engine = make_engine(output_token_ids=(0, 2))
    engine.launch(StepPlan(0, (make_slice(range(30), range(8), params=None),)))
    seen = set()
    for block in range(7):
        engine.pool.array[0, 0, block, 0, 0, 3] ^= np.uint16(1 << 15)
        step = StepPlan(1, (make_slice([1], range(8), start=30),))
        seen.add(engine.launch(step).result().tokens[0])
    assert seen == {0, 1}
