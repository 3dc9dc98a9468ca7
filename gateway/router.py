"""Which worker takes what. Pure functions of the gateway's view."""

from __future__ import annotations

from collections.abc import Iterable

from gateway.fleet import DecodeView, PrefillView
from gateway.generation import Generation


def with_free_slot(workers: Iterable[PrefillView]) -> list[PrefillView]:
    """The prefill workers that can take a batch, the one with the least to do first."""
    return sorted(
        (worker for worker in workers if worker.has_slot),
        key=lambda worker: (worker.num_queued_tokens, worker.info.worker_id),
    )


def choose_decode(
    workers: Iterable[DecodeView], prefill: PrefillView, generation: Generation
) -> DecodeView | None:
    """Of the decode workers with room for the sequence, and not too much on its way to them yet,
    the emptiest; one that `prefill` could not reach of late only if there is no other."""
    return min(
        (
            worker
            for worker in workers
            if worker.can_take(generation)
            and prefill.may_send_to(worker.info.worker_id, generation.num_context_tokens)
        ),
        key=lambda worker: (
            worker.info.worker_id in prefill.failed_edges,
            worker.num_used_blocks,
            worker.info.worker_id,
        ),
        default=None,
    )


def choose_colocated(workers: Iterable[DecodeView], generation: Generation) -> DecodeView | None:
    """Of the workers with room for the sequence, the one with the fewest."""
    return min(
        (worker for worker in workers if worker.can_take(generation)),
        key=lambda worker: (
            len(worker.generations),
            worker.num_used_blocks,
            worker.info.worker_id,
        ),
        default=None,
    )
