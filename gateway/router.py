"""Which worker takes what. Pure functions of the gateway's view.

Whoever is predicted to be done first takes it: what is cached there, what waits there and what runs
there are weighed in seconds. So a prefix draws what begins alike to its worker only as long as the
queue there does not cost more than computing or moving it again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import TypeVar

from gateway.decode_view import DecodeView
from gateway.generation import Generation
from gateway.prefill_view import PrefillView
from gateway.worker_view import WorkerView

Worker = TypeVar("Worker", bound=WorkerView)


def sound(workers: Iterable[Worker], now: float, *, has_others: bool = False) -> list[Worker]:
    """Those that may be given something new. Who failed a step of late is among them only if there
    are none but such, and no others elsewhere."""
    open_ones = [worker for worker in workers if worker.is_open]
    sound_ones = [worker for worker in open_ones if not worker.has_failed(now)]
    return sound_ones if sound_ones or has_others else open_ones


def are_several(workers: Iterable[WorkerView]) -> bool:
    """Whether there is another beside each of them: who drains takes nothing new, and is none."""
    return sum(not worker.is_draining for worker in workers) > 1


def choose_prefill(
    workers: Iterable[PrefillView],
    generation: Generation,
    first_token_s: Callable[[PrefillView], float],
    has_room: Callable[[PrefillView], bool],
) -> PrefillView | None:
    """Of the workers with room, the one that has the prompt's first token in the fewest seconds;
    while those are not known, by the tokens that it has to compute until then."""
    soonest_first = sorted(
        workers,
        key=lambda worker: (
            first_token_s(worker),
            worker.num_queued_tokens + worker.uncached_tokens(generation),
            worker.info.worker_id,
        ),
    )
    # While there is room, most of very many workers are never asked.
    return next(filter(has_room, soonest_first), None)


def choose_decode(
    workers: Collection[DecodeView], prefill: PrefillView, generation: Generation, now: float
) -> DecodeView | None:
    """Of the decode workers with room for the sequence, and not too much on its way to them yet,
    the one that is done first; of equals the emptiest. One that `prefill` could not reach of late,
    or that failed a step, only if there is no other."""
    num_answer_tokens, num_tokens = generation.typical_tokens, generation.num_context_tokens
    has_others = are_several(workers)
    return min(
        (
            worker
            for worker in workers
            if prefill.may_send_to(worker.info.worker_id, num_tokens, has_others=has_others)
            and worker.can_take(generation)
        ),
        key=lambda worker: (
            worker.has_failed(now) or worker.info.worker_id in prefill.failed_edges,
            _move_s(worker, prefill, generation) + _load_s(worker, prefill, num_answer_tokens),
            worker.num_used_blocks,
            worker.info.worker_id,
        ),
        default=None,
    )


def choose_colocated(
    workers: Iterable[DecodeView], generation: Generation, admits: Callable[[DecodeView], bool]
) -> DecodeView | None:
    """Of the workers that admit another prompt and have room for the sequence, the one that is done
    first, if a token costs the same anywhere: those of the prompts before it and of its own, and of
    what runs beside it."""
    num_answer_tokens = generation.typical_tokens
    soonest_first = sorted(
        workers,
        key=lambda worker: (
            worker.num_prompt_tokens_left
            + worker.uncached_tokens(generation)
            + num_answer_tokens * len(worker.generations),
            worker.num_used_blocks,
            worker.info.worker_id,
        ),
    )
    # While there is room, most of very many workers are never asked.
    able = (each for each in soonest_first if admits(each) and each.can_take(generation))
    return next(able, None)


def _move_s(worker: DecodeView, prefill: PrefillView, generation: Generation) -> float:
    """How long what a decode worker lacks of a prompt's KV takes to it."""
    return prefill.send_rate.seconds(worker.kv_bytes(worker.uncached_tokens(generation)))


def _load_s(worker: DecodeView, prefill: PrefillView, num_answer_tokens: int) -> float:
    """How much longer an answer takes because of what runs there, of which its steps compute as
    many tokens of each sequence as it has. A sequence's token is thought to cost a step what one of
    a prompt does, and no less than on `prefill`: a worker that computes no prompts learns nothing
    of that, and one that computes few learns that they hide behind what its steps read anyway,
    which more sequences do not."""
    token_s = max(worker.step_times.token_s, prefill.step_times.token_s)
    return num_answer_tokens * len(worker.generations) * token_s
