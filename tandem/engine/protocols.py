"""The seam between a worker and the thing that computes.

`launch` starts a step and `StepHandle.result` waits for it, apart from each other, so that an
engine may launch ahead of the host. All calls of `launch` come from one thread, the engine thread;
`prepare` and the copies of a `KVPool` come from other threads, at the same time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Protocol

from tandem.core.kv import KVLayout, Plane
from tandem.core.plan import StepPlan, StepResult
from tandem.core.sampling_params import SamplingParams
from tandem.core.worker import ModelInfo

__all__ = ["Engine", "KVPool", "KVRead", "KVWrite", "LayerHook", "ModelInfo", "StepHandle"]

LayerHook = Callable[[int], None]


class KVRead(Protocol):
    """Items on their way out of a pool."""

    def end(self, out: memoryview) -> None:
        """Wait for them, and copy them to `out`. Raises `ValueError` if it is not of the region's
        size. To be called once."""
        ...

    def close(self) -> None:
        """Wait until nothing of the copy is under way any more, and have nothing held for it,
        whether it has ended, failed, or was never to be ended. May be called again."""
        ...


class KVWrite(Protocol):
    """Items on their way into a pool, which need their bytes in the host's memory no longer."""

    @property
    def is_stored(self) -> bool:
        """Whether `end` would not wait."""
        ...

    def end(self) -> None:
        """Wait until they are stored: a step that is launched after that sees them, and no other
        step may be launched to read them. To be called once."""
        ...

    def close(self) -> None:
        """As `KVRead.close`."""
        ...


class KVPool(Protocol):
    """The paged KV cache of one device.

    A copy moves whole leading parts of blocks: tokens `[0, num_tokens)` of the concatenation of
    `blocks`, for one plane and a range of layers, as C-ordered items
    `[len(layers), num_tokens, num_kv_heads, head_items]`, to or from bytes at any address. It is
    begun, and then ended: several may be under way, so that a device's own part of one goes on
    beside the host's part of another. Who begins one closes it, come what may; all of it on one
    thread, and the GIL is released while bytes move. The caller makes sure that nobody else writes
    these blocks until it is closed.
    """

    @property
    def layout(self) -> KVLayout: ...

    @property
    def num_blocks(self) -> int: ...

    def begin_read(
        self, plane: Plane, layers: range, blocks: Sequence[int], num_tokens: int
    ) -> KVRead:
        """Begin to copy the items out."""
        ...

    def begin_write(
        self, plane: Plane, layers: range, blocks: Sequence[int], num_tokens: int, data: memoryview
    ) -> KVWrite:
        """Begin to store the items. `data` is not looked at any more once this returns. Raises
        `ValueError` if it is not of the region's size."""
        ...

    def read_into(
        self, plane: Plane, layers: range, blocks: Sequence[int], num_tokens: int, out: memoryview
    ) -> None:
        """Copy the items out, and wait for it."""
        with closing(self.begin_read(plane, layers, blocks, num_tokens)) as copy:
            copy.end(out)

    def write(
        self, plane: Plane, layers: range, blocks: Sequence[int], num_tokens: int, data: memoryview
    ) -> None:
        """Store the items, and wait for it."""
        with closing(self.begin_write(plane, layers, blocks, num_tokens, data)) as copy:
            copy.end()


class StepHandle(Protocol):
    """A step under way."""

    def result(self) -> StepResult:
        """Wait for the step, and return its sampled tokens."""
        ...


class Engine(Protocol):
    """Owns a model and a pool on one device and runs the steps it is given, in order."""

    @property
    def model(self) -> ModelInfo: ...

    @property
    def pool(self) -> KVPool: ...

    @property
    def runs_ahead(self) -> bool:
        """Whether a step may be launched before the result of the one before is there, and hold
        its tokens as `PENDING`."""
        ...

    def launch(self, plan: StepPlan, on_layer: LayerHook | None = None) -> StepHandle:
        """Start a step.

        `on_layer(layer)` is called, in `launch` or in `StepHandle.result`, in order, once the KV
        that the step computes for `layer` is in the pool. It must be cheap. With it, `launch` may
        last as long as the step.

        Raises `TandemError` for a plan that breaks the contract, before any KV is written. Any
        other exception, of this or of `StepHandle.result`, is the engine's own failure.
        """
        ...

    def warm_up(self) -> None:
        """Do now what the first steps would wait for otherwise. Called once, before anything."""
        ...

    def prepare(self, sequence_id: int, params: SamplingParams) -> None:
        """Do what a sequence's first step would wait for otherwise: compile its grammar. Called
        before a plan has the sequence, from another thread than the engine's, while steps run.

        Without it the results are the same, only later: a sequence that has moved here need not be
        prepared. Raises `TandemError` if it cannot be sampled as its parameters say.
        """
        ...

    def use_idle_time(self) -> bool:
        """Do some milliseconds of what later steps would wait for otherwise; False if nothing is
        left. Called on the engine thread, while there is no step for it. Must not fail."""
        ...

    def is_lost(self) -> bool:
        """Whether no step can succeed any more, after one has failed, or a copy: its device is in
        an error that only a new process is rid of. May wait for the device. Called by whichever
        thread saw the failure."""
        ...

    def close(self) -> None:
        """Free the device."""
        ...
