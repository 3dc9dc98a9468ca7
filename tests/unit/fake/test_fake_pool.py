import numpy as np
import pytest
from kv_items import read_kv

from tandem.core.errors import TandemError
from tandem.core.kv import KVLayout, Plane
from tandem.core.plan import StepPlan
from tandem.engine.fake.content import items


@pytest.fixture
def pool(make_engine):
    return make_engine().pool


def test_layout(pool):
    assert pool.layout == KVLayout(4, 1, 8, 4, "uint16")
    assert pool.array.nbytes == pool.layout.block_bytes * pool.num_blocks


def test_a_step_leaves_its_kv_where_the_table_says(make_engine, make_slice):
    engine = make_engine()
    engine.launch(StepPlan(0, (make_slice(range(20, 26), [9, 4]),)))
    expected = items(range(20, 26), range(6))
    found = np.frombuffer(read_kv(engine.pool, Plane.VALUE, range(1, 3), [9, 4], 6), np.uint16)
    assert (found.reshape(2, 6, 1, 8) == expected[1, 1:3]).all()
    assert (engine.pool.array[0, :, 9] == expected[0, :, :4]).all()


@pytest.mark.parametrize("plane", Plane)
@pytest.mark.parametrize("layers", [range(4), range(2, 3)])
@pytest.mark.parametrize("num_tokens", [1, 4, 7, 8])
def test_what_is_written_is_read(pool, plane, layers, num_tokens):
    region = len(layers) * num_tokens * pool.layout.token_bytes
    data = np.random.default_rng(0).bytes(region)
    pool.write(plane, layers, [60, 2], num_tokens, memoryview(data))
    assert read_kv(pool, plane, layers, [60, 2], num_tokens) == data
    untouched = np.ones_like(pool.array, np.bool_)
    untouched[plane - 1, layers.start : layers.stop, [60, 2]] = False
    assert not pool.array[untouched].any()


def test_read_is_a_copy(pool):
    data = read_kv(pool, Plane.KEY, range(1), [0], 1)
    pool.array[:] = 7
    assert set(data) == {0}


@pytest.mark.parametrize("size", [0, 127, 126, 144])
def test_a_read_into_other_than_the_regions_bytes(pool, size):
    with pytest.raises(ValueError):
        pool.read_into(Plane.KEY, range(2), [1], 4, memoryview(bytearray(size)))


@pytest.mark.parametrize("size", [0, 127, 126, 144])
def test_a_write_of_other_than_the_regions_bytes(pool, size):
    with pytest.raises(ValueError):
        pool.write(Plane.KEY, range(2), [1], 4, memoryview(bytes(size)))
    assert not pool.array.any()


@pytest.mark.parametrize(
    ("layers", "blocks", "num_tokens"),
    [
        (range(5), [1], 4),
        (range(-1, 2), [1], 4),
        (range(0, 4, 2), [1], 4),
        (range(4), [1], 5),
        (range(4), [1], 0),
        (range(4), [64], 4),
        (range(4), [-1], 4),
    ],
)
def test_regions_outside_the_pool(pool, layers, blocks, num_tokens):
    with pytest.raises(TandemError):
        read_kv(pool, Plane.KEY, layers, blocks, num_tokens)
    with pytest.raises(TandemError):
        pool.write(Plane.KEY, layers, blocks, num_tokens, memoryview(b""))
