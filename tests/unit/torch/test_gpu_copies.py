"""What a GPU's pool queues and waits for as it copies, on a stream that does it late."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import closing
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("triton", reason="TRITON IS NOT INSTALLED: a GPU's copies are untested")

from tandem.core.kv import KVLayout, Plane
from tandem.engine.protocols import KVRead, KVWrite
from tandem.engine.torch import device_copies
from tandem.engine.torch.device_copies import DeviceCopies, DeviceStream, Staging
from tandem.engine.torch.kv_pool import TorchKVPool

LAYOUT = KVLayout(3, 2, 4, 8, "bfloat16")
LAYERS = range(1, 3)
TOKENS = 20
NUM_BYTES = len(LAYERS) * TOKENS * LAYOUT.token_bytes


class LateStream:
    """Does what is queued when somebody waits for it, or for what was queued behind it: later than
    a GPU would. `log` is what was queued, done, and waited for."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.error: Exception | None = None
        self._queued: list[tuple[int, Callable[[], None]]] = []
        self._num_queued = 0

    def queue(self, launch: Callable[[], None]) -> LateEvent:
        if self.error:
            raise self.error
        self._num_queued += 1
        self._queued.append((self._num_queued, launch))
        self.log.append(f"queue {self._num_queued}")
        return LateEvent(self, self._num_queued)

    def is_done(self, number: int) -> bool:
        return all(number < queued for queued, _ in self._queued)

    def wait(self, number: int) -> None:
        self.log.append(f"wait {number}")
        if self.error:
            raise self.error
        while self._queued and self._queued[0][0] <= number:
            self._queued.pop(0)[1]()


class LateEvent:
    def __init__(self, stream: LateStream, number: int) -> None:
        self._stream = stream
        self._number = number

    def query(self) -> bool:
        return self._stream.is_done(self._number)

    def synchronize(self) -> None:
        self._stream.wait(self._number)


class Pool:
    """A pool whose copies are made by a late stream, and how much staging it has made."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.stream = LateStream()
        self.num_stagings = 0
        self.pool = TorchKVPool(LAYOUT, 10, torch.device("cpu"))
        self.pool.copies = DeviceCopies(self.pool._items, lambda: self.stream)

        def new_staging(*, pinned: bool) -> Staging:
            self.num_stagings += 1
            return Staging(pinned=pinned)

        monkeypatch.setattr(device_copies, "Staging", new_staging)


@pytest.fixture
def side(monkeypatch: pytest.MonkeyPatch) -> Pool:
    if torch.cuda.is_available():
        pytest.skip("NOT TESTED ON A GPU: a pool in host memory, which only the interpreter takes")
    return Pool(monkeypatch)


def data_of(seed: int) -> bytes:
    return random.Random(seed).randbytes(NUM_BYTES)


TABLES = ([7, 2, 5], [3, 9, 1])


def test_two_copies_into_the_pool_are_under_way_at_a_time(side: Pool) -> None:
    """Neither table nor items of the first are overwritten by the second's, nor by the caller."""
    begun = []
    for seed, table in enumerate(TABLES):
        data = bytearray(data_of(seed))
        begun.append(side.pool.begin_write(Plane.KEY, LAYERS, table, TOKENS, memoryview(data)))
        data[:] = bytes(NUM_BYTES)
    assert side.stream.log == ["queue 1", "queue 2"]
    assert not any(each.is_stored for each in begun)
    begun[0].end()
    assert [each.is_stored for each in begun] == [True, False]
    begun[1].end()
    assert side.stream.log == ["queue 1", "queue 2", "wait 1", "wait 2"]
    for seed, table in enumerate(TABLES):
        out = memoryview(bytearray(NUM_BYTES))
        side.pool.read_into(Plane.KEY, LAYERS, table, TOKENS, out)
        assert out == data_of(seed)


def test_two_copies_out_of_the_pool_are_under_way_at_a_time(side: Pool) -> None:
    for seed, table in enumerate(TABLES):
        side.pool.write(Plane.VALUE, LAYERS, table, TOKENS, memoryview(data_of(seed)))
    side.stream.log.clear()
    begun = [side.pool.begin_read(Plane.VALUE, LAYERS, table, TOKENS) for table in TABLES]
    assert side.stream.log == ["queue 3", "queue 4"]
    for seed, each in enumerate(begun):
        out = memoryview(bytearray(NUM_BYTES))
        each.end(out)
        assert out == data_of(seed)
        each.close()
    assert side.stream.log == ["queue 3", "queue 4", "wait 3", "wait 4"]


def test_what_is_dropped_is_waited_for_before_its_staging_is_anothers(side: Pool) -> None:
    dropped = side.pool.begin_write(Plane.KEY, LAYERS, TABLES[0], TOKENS, memoryview(data_of(0)))
    other = side.pool.begin_write(Plane.KEY, LAYERS, TABLES[1], TOKENS, memoryview(data_of(1)))
    assert side.num_stagings == 2
    dropped.close()
    assert side.stream.log == ["queue 1", "queue 2", "wait 1"]
    dropped.close()
    third = side.pool.begin_write(Plane.VALUE, LAYERS, TABLES[0], TOKENS, memoryview(data_of(2)))
    assert side.num_stagings == 2
    for each in (other, third):
        each.end()
    out = memoryview(bytearray(NUM_BYTES))
    side.pool.read_into(Plane.KEY, LAYERS, TABLES[0], TOKENS, out)
    assert out == data_of(0)


def test_staging_is_as_much_as_is_under_way(side: Pool) -> None:
    for number in range(20):
        with (
            closing(side.pool.begin_read(Plane.KEY, LAYERS, TABLES[number % 2], TOKENS)) as one,
            closing(side.pool.begin_read(Plane.VALUE, range(1), [4], 3)),
        ):
            one.end(memoryview(bytearray(NUM_BYTES)))
    assert side.num_stagings == 2


class RandomCopies:
    """Copies of single blocks and any length, of which several are under way."""

    def __init__(self, pool: TorchKVPool, rng: random.Random) -> None:
        self._pool = pool
        self._rng = rng
        self._stored: dict[int, bytes] = {}
        # By their block.
        self._reads: dict[int, KVRead] = {}
        self._writes: dict[int, KVWrite] = {}

    def begin(self) -> None:
        """One more, of a block that no other has, unless there are three."""
        block = self._rng.randrange(10)
        if block in self.under_way or len(self.under_way) == 3:
            return
        if block in self._stored and self._rng.random() < 0.5:
            size = len(self._stored[block])
            num_tokens = size // len(LAYERS) // LAYOUT.token_bytes
            self._reads[block] = self._pool.begin_read(Plane.KEY, LAYERS, [block], num_tokens)
            return
        num_tokens = self._rng.randint(1, 8)
        data = self._rng.randbytes(len(LAYERS) * num_tokens * LAYOUT.token_bytes)
        self._writes[block] = self._pool.begin_write(
            Plane.KEY, LAYERS, [block], num_tokens, memoryview(data)
        )
        self._stored[block] = data

    def end(self) -> None:
        """Any one."""
        block = self._rng.choice(self.under_way)
        if block in self._writes:
            with closing(self._writes.pop(block)) as write:
                write.end()
            return
        with closing(self._reads.pop(block)) as read:
            out = memoryview(bytearray(len(self._stored[block])))
            read.end(out)
            assert out == self._stored[block]

    @property
    def under_way(self) -> list[int]:
        return [*self._reads, *self._writes]

    def check(self) -> None:
        while self.under_way:
            self.end()
        for block, data in self._stored.items():
            out = memoryview(bytearray(len(data)))
            num_tokens = len(data) // len(LAYERS) // LAYOUT.token_bytes
            self._pool.read_into(Plane.KEY, LAYERS, [block], num_tokens, out)
            assert out == data


@pytest.mark.parametrize("seed", range(6))
def test_whatever_is_under_way_everything_comes_where_it_belongs(side: Pool, seed: int) -> None:
    rng = random.Random(seed)
    copies = RandomCopies(side.pool, rng)
    for _ in range(60):
        copies.begin()
        if copies.under_way and rng.random() < 0.5:
            copies.end()
    copies.check()
    assert side.num_stagings <= 3


def test_a_copy_that_cannot_be_launched_holds_no_staging(side: Pool) -> None:
    side.stream.error = RuntimeError("no kernel image")
    for _ in range(5):
        with pytest.raises(RuntimeError, match="no kernel image"):
            side.pool.begin_read(Plane.KEY, LAYERS, TABLES[0], TOKENS)
    side.stream.error = None
    side.pool.write(Plane.KEY, LAYERS, TABLES[0], TOKENS, memoryview(data_of(0)))
    assert side.num_stagings == 1


def test_a_copy_that_fails_on_its_way_holds_no_staging(side: Pool) -> None:
    for _ in range(5):
        read = side.pool.begin_read(Plane.KEY, LAYERS, TABLES[0], TOKENS)
        side.stream.error = RuntimeError("an illegal memory access")
        with pytest.raises(RuntimeError, match="illegal"), closing(read):
            read.end(memoryview(bytearray(NUM_BYTES)))
        side.stream.error = None
    assert side.num_stagings == 1


def test_bytes_of_another_size_are_refused_and_hold_nothing(side: Pool) -> None:
    for size in (0, NUM_BYTES - 1, NUM_BYTES + 1):
        with pytest.raises(ValueError, match="bytes"):
            side.pool.read_into(Plane.KEY, LAYERS, TABLES[0], TOKENS, memoryview(bytearray(size)))
        with pytest.raises(ValueError, match="bytes"):
            side.pool.write(Plane.KEY, LAYERS, TABLES[0], TOKENS, memoryview(bytes(size)))
    assert side.num_stagings == 1


class Gpus:
    """As many as a thread asks for, of which it is at one: as torch goes from one to the other.
    `taken` are those of which it has memory then."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.at = 0
        self.taken: set[int] = set()
        for name in ("current_stream", "set_stream", "Stream", "_get_device_index"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))
        monkeypatch.setattr(torch.cuda, "_exchange_device", self._exchange)
        monkeypatch.setattr(torch.cuda, "_maybe_exchange_device", self._exchange_if_taken)

    def Stream(self, device: torch.device) -> SimpleNamespace:
        return SimpleNamespace(device=device)

    def current_stream(self, device: torch.device | None = None) -> SimpleNamespace:
        return self.Stream(torch.device("cuda", self._get_device_index(device)))

    def set_stream(self, stream: SimpleNamespace) -> None:
        """By `cudaSetDevice`, if it is another GPU's."""
        if stream.device.index != self.at:
            self._exchange(stream.device.index)

    def _get_device_index(self, device: torch.device | None, optional: bool = True) -> int:
        return self.at if device is None else device.index

    def _exchange(self, index: int) -> int:
        self.taken.add(index)
        before, self.at = self.at, index
        return before

    def _exchange_if_taken(self, index: int) -> int:
        before, self.at = self.at, index
        return before


def test_a_second_gpus_copies_take_nothing_of_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose memory may be another worker's, to the last byte."""
    gpus = Gpus(monkeypatch)
    monkeypatch.setattr(device_copies, "record_event", lambda: None)
    stream, seen = DeviceStream(torch.device("cuda", 1)), []
    for _ in range(2):
        stream.queue(lambda: seen.append(gpus.at))
    assert seen == [1, 1]
    assert gpus.at == 0
    assert gpus.taken == {1}
