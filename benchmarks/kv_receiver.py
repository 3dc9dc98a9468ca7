"""The receiving process of `kv_transfer.py`, and what both its processes have.

Commands come as lines of JSON, `[command, region]`, and are answered likewise.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import socket
import sys
from dataclasses import dataclass
from time import process_time
from typing import Any

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray

from tandem.core.blocks import BlockAllocator, SequenceBlocks
from tandem.core.errors import Fenced
from tandem.core.kv import KVLayout, Plane
from tandem.engine.torch.kv_pool import TorchKVPool
from tandem.transfer.receiver import KvReceiver
from tandem.transfer.reservation import Reservation
from tandem.transfer.servicer import add_kv_transfer_service
from tandem.transfer.state_guard import StateGuard
from tandem.wire.channels import new_server

FINGERPRINT = "benchmark"
VOCAB_SIZE = 1000
TRANSFER_ID = b"capability"
# Of the raw socket. Larger and smaller ones are slower.
RAW_CALL_BYTES = 2**20
RAW_SOCKET_BYTES = 4 * 2**20
# So many transfers' worth of memory on each side, used in turn: far more than any cache holds.
NUM_REGIONS = 8


@dataclass(frozen=True, slots=True)
class Case:
    """A model's KV layout, and a prompt of a size that is worth measuring."""

    layout: KVLayout
    num_tokens: int

    @property
    def num_bytes(self) -> int:
        """Bytes of the prompt's KV."""
        return self.num_tokens * self.layout.token_bytes * self.layout.num_layers * len(Plane)

    @property
    def num_blocks(self) -> int:
        return self.layout.blocks_for(self.num_tokens)


CASES = {
    "smollm2-135m": Case(KVLayout(30, 3, 64, 16, "bfloat16"), num_tokens=2048),
    "llama-8b": Case(KVLayout(32, 8, 128, 16, "bfloat16"), num_tokens=512),
}


class Side:
    """What both processes have: a pool, a raw buffer of the same size, regions of both."""

    def __init__(self, case: Case, seed: int) -> None:
        self.case = case
        self.pool = TorchKVPool(case.layout, NUM_REGIONS * case.num_blocks, torch.device("cpu"))
        rng = np.random.default_rng(seed)
        for layer in range(case.layout.num_layers):
            for plane in Plane:
                items = self.pool.layer(plane, layer).view(torch.uint8).numpy().reshape(-1)
                items[:] = noise(rng, items.size)
        self.raw = noise(rng, NUM_REGIONS * case.num_bytes)
        # Blocks lie scattered, as in a pool that has been in use for a while.
        self._ids = list(range(self.pool.num_blocks))
        random.Random(seed).shuffle(self._ids)

    def blocks(self, region: int) -> SequenceBlocks:
        blocks = SequenceBlocks(BlockAllocator(0))
        blocks.ids = self._ids[region * self.case.num_blocks : (region + 1) * self.case.num_blocks]
        return blocks

    def raw_region(self, region: int) -> memoryview:
        size = self.case.num_bytes
        return self.raw[region * size : (region + 1) * size].data

    def digests(self, region: int) -> list[str]:
        """Of the region's KV, and of its raw bytes."""
        kv = xxhash.xxh3_128()
        items = memoryview(bytearray(self.case.num_tokens * self.case.layout.token_bytes))
        for plane in Plane:
            for layer in range(self.case.layout.num_layers):
                layers, ids = range(layer, layer + 1), self.blocks(region).ids
                self.pool.read_into(plane, layers, ids, self.case.num_tokens, items)
                kv.update(items)
        return [kv.hexdigest(), xxhash.xxh3_128_hexdigest(self.raw_region(region))]


def noise(rng: np.random.Generator, num_bytes: int) -> NDArray[np.uint8]:
    """Bytes that no two places share. `num_bytes` is a multiple of 8."""
    return rng.integers(0, 2**64, num_bytes // 8, np.uint64).view(np.uint8)


@dataclass
class Book:
    """The `ReservationBook` of one reservation at a time."""

    current: Reservation | None = None

    def reservation(self, transfer_id: bytes, epoch: int) -> Reservation:
        if self.current is None or self.current.epoch != epoch:
            raise Fenced("no such reservation")
        return self.current

    def reservation_complete(self, reservation: Reservation) -> None:
        pass


class ReceiverProcess:
    """The decode worker's end."""

    def __init__(self, case: Case) -> None:
        self._case = case
        self._side = Side(case, seed=2)
        self._book = Book()
        self._epoch = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RAW_SOCKET_BYTES)
        self._connection: socket.socket | None = None

    async def serve(self) -> None:
        guard = StateGuard(asyncio.get_running_loop())
        receiver = KvReceiver(self._side.pool, self._book, guard, FINGERPRINT, VOCAB_SIZE, ignore)
        server = new_server()
        add_kv_transfer_service(receiver, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        say({"kv_port": port, "raw_port": self._listener.getsockname()[1]})
        self._connection, _ = self._listener.accept()
        while line := await asyncio.to_thread(sys.stdin.readline):
            command, region = json.loads(line)
            getattr(self, f"_on_{command}")(region)
        await server.stop(0)
        receiver.close()

    def _on_reserve(self, region: int) -> None:
        self._epoch += 1
        self._book.current = Reservation(
            sequence_id=self._epoch,
            transfer_id=TRANSFER_ID,
            epoch=self._epoch,
            layout=self._case.layout,
            blocks=self._side.blocks(region),
            first_token=0,
            num_tokens=self._case.num_tokens,
        )
        say({"epoch": self._epoch})

    def _on_raw(self, region: int) -> None:
        assert self._connection is not None
        target = self._side.raw_region(region)
        say({})
        while target:
            target = target[self._connection.recv_into(target[:RAW_CALL_BYTES]) :]
        self._connection.sendall(b"!")

    def _on_processor(self, _: int) -> None:
        say({"seconds": process_time()})

    def _on_digests(self, region: int) -> None:
        say({"digests": self._side.digests(region)})


def say(message: dict[str, Any]) -> None:
    print(json.dumps(message), flush=True)


def ignore(*_: object) -> None:
    """Spans and wake-ups go nowhere."""


if __name__ == "__main__":
    layout, core = sys.argv[1:]
    os.sched_setaffinity(0, [int(core)])
    asyncio.run(ReceiverProcess(CASES[layout]).serve())
