"""What the page is told: the state of the whole at a tick, and what the workers did since the last.

No prompt and no answer is in it, and of the names that clients give their requests only those that
the page's own chat makes up, so that it finds its request in the lanes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import chain, islice
from time import monotonic_ns
from typing import Any

import orjson

from gateway.generation import Generation, Phase
from gateway.page.bottleneck import Load, RoleLoad, find_bottleneck
from gateway.page.lane_reader import LaneReader
from gateway.page.recent import RecentTimes
from gateway.request_metrics import RequestMetrics
from gateway.scheduler import Scheduler
from gateway.timeline import Timeline
from gateway.worker_view import DecodeView, PrefillView
from tandem.core.errors import ResourceExhausted
from tandem.core.pipeline import PipelineFigures, pipeline_figures
from tandem.core.worker import WorkerRole

# The figures are of the last 10 s, and worked out anew every second.
FIGURES_MS = 10_000
TICKS_PER_FIGURES = 4
RECENT_TICKS = 40
MAX_REQUESTS = 120
# How the page's chat names its requests, with a random rest.
OWN_PREFIX = "page-"

Json = dict[str, Any]
WorkerViews = Sequence[PrefillView | DecodeView]


class Feed:
    """The ticks for those who look at one time. What it holds is only what it told last."""

    def __init__(
        self,
        scheduler: Scheduler,
        requests: RequestMetrics,
        timeline: Timeline,
        clock_ns: Callable[[], int] = monotonic_ns,
    ) -> None:
        """`clock_ns` is the workers' spans' clock once their offsets are added."""
        self._scheduler = scheduler
        self._requests = requests
        self._timeline = timeline
        self._clock_ns = clock_ns
        self._lanes = LaneReader(timeline)
        self._first_token_s = RecentTimes(requests.first_token_s, RECENT_TICKS)
        self._between_tokens_s = RecentTimes(requests.between_tokens_s, RECENT_TICKS)
        self._figures = pipeline_figures(())
        self._num_ticks = 0

    async def tick(self) -> bytes:
        """The next tick, as JSON."""
        if self._num_ticks % TICKS_PER_FIGURES == 0:
            await self._work_out_figures()
        self._num_ticks += 1
        self._first_token_s.tick()
        self._between_tokens_s.tick()
        return orjson.dumps(self._state())

    async def _work_out_figures(self) -> None:
        try:
            self._figures = await self._timeline.figures(FIGURES_MS)
        except ResourceExhausted:
            # Others read the timeline; a second later they may not.
            return

    def _state(self) -> Json:
        now_ns = self._clock_ns()
        workers = self._scheduler.workers
        generations = list(self._scheduler.generations)
        load = _load(self._scheduler, self._figures, len(generations))
        return {
            "now": now_ns // 1000,
            "model": workers[0].info.model.name if workers else None,
            "lanes": self._lanes.read(now_ns),
            "workers": _workers(workers, self._figures),
            "queue": [self._scheduler.num_queued, self._scheduler.num_queued_tokens],
            "requests": _requests(generations),
            "totals": _totals(self._requests),
            "first_token_s": _quantiles(self._first_token_s),
            "between_tokens_s": _quantiles(self._between_tokens_s),
            "pipeline": _pipeline(self._figures),
            "bottleneck": find_bottleneck(load)._asdict(),
        }


def _workers(workers: WorkerViews, figures: PipelineFigures) -> list[Json]:
    busy = {lane.worker_id: lane.busy_share for lane in figures.lanes}
    return [
        {
            "id": each.info.worker_id,
            "role": each.info.role.name.lower(),
            "state": "suspected" if each.suspect else "trusted",
            "device": each.info.device,
            "busy": round(busy.get(each.info.worker_id, 0.0), 3),
            "sequences": len(each.generations),
            "places": each.info.max_num_seqs,
            "blocks": each.info.num_blocks,
            "used_blocks": each.info.num_blocks - each.num_free_blocks,
            "prompt_tokens": each.num_prompt_tokens,
            "cached_tokens": each.num_cached_tokens,
        }
        for each in sorted(workers, key=lambda each: (each.info.role, each.info.worker_id))
    ]


def _requests(generations: Sequence[Generation]) -> Json:
    """How many are where, and some of them: those of the page's chats, and the oldest."""
    counts = Counter(map(_stage, generations))
    own = filter(_is_own, generations)
    others = (each for each in generations if not _is_own(each))
    return {
        "counts": {stage: counts[stage] for stage in STAGES},
        "shown": [_request(each) for each in islice(chain(own, others), MAX_REQUESTS)],
    }


STAGES = ("queued", "prefill", "transfer", "decode")


def _stage(generation: Generation) -> str:
    """A reservation is asked for while the batch forms, which is waiting as well. A prompt that is
    through, and whose KV is not, is on its way."""
    if generation.phase in (Phase.QUEUED, Phase.RESERVING):
        return "queued"
    if generation.armed:
        return "decode"
    return "transfer" if generation.token_ids else "prefill"


def _is_own(generation: Generation) -> bool:
    return generation.request.request_id.startswith(OWN_PREFIX)


def _request(generation: Generation) -> Json:
    return {
        "sequence": generation.sequence_id,
        "stage": _stage(generation),
        "prefill": generation.prefill_worker,
        "decode": generation.decode_worker,
        "prompt": generation.num_prompt_tokens,
        "tokens": len(generation.token_ids),
        "name": generation.request.request_id if _is_own(generation) else "",
    }


def _totals(requests: RequestMetrics) -> Json:
    return {
        "prompt_tokens": requests.num_prompt_tokens,
        "cached_tokens": requests.num_cached_tokens,
        "generated_tokens": requests.num_generated_tokens,
        "kv_bytes": requests.num_kv_bytes,
        "finished": requests.finished.total(),
        "failed": requests.failed.total(),
        "refused": requests.refused.total(),
        "preemptions": requests.num_preemptions,
        "recoveries": requests.num_losses,
    }


def _quantiles(times: RecentTimes) -> list[float | None]:
    return [times.quantile(0.5), times.quantile(0.99)]


def _pipeline(figures: PipelineFigures) -> Json:
    transfers = figures.transfers
    return {
        "efficiency": figures.efficiency if figures.makespan_ns else None,
        "hidden": transfers.hidden_share if transfers.count else None,
        "transfers": transfers.count,
        "bytes_per_s": transfers.bytes_per_s,
    }


def _load(scheduler: Scheduler, figures: PipelineFigures, num_in_flight: int) -> Load:
    workers = scheduler.workers
    roles = {role: _role_load(role, workers, figures) for role in WorkerRole}
    missing = (role.name.lower() for role in scheduler.roles if not roles[role].num_trusted)
    return Load(
        roles[WorkerRole.PREFILL],
        roles[WorkerRole.DECODE],
        num_queued=scheduler.num_queued,
        num_in_flight=num_in_flight,
        sending_share=_sending_share(figures, roles[WorkerRole.PREFILL].num_trusted),
        exposed_share=1.0 - figures.transfers.hidden_share,
        missing=next(missing, ""),
    )


def _sending_share(figures: PipelineFigures, num_senders: int) -> float:
    transfers = figures.transfers
    if not num_senders or not transfers.bytes_per_s:
        return 0.0
    sending_ns = transfers.num_bytes / transfers.bytes_per_s * 1e9
    return sending_ns / (num_senders * figures.makespan_ns)


def _role_load(role: WorkerRole, workers: WorkerViews, figures: PipelineFigures) -> RoleLoad:
    trusted = {
        each.info.worker_id: each for each in workers if each.info.role is role and not each.suspect
    }
    busy = [lane.busy_share for lane in figures.lanes if lane.worker_id in trusted]
    num_blocks = _sum(each.info.num_blocks for each in trusted.values())
    num_free = _sum(each.num_free_blocks for each in trusted.values())
    return RoleLoad(
        num_trusted=len(trusted),
        busy_share=sum(busy) / max(1, len(busy)),
        num_sequences=_sum(len(each.generations) for each in trusted.values()),
        num_places=_sum(each.info.max_num_seqs for each in trusted.values()),
        used_share=(num_blocks - num_free) / max(1, num_blocks),
    )


def _sum(numbers: Iterable[int]) -> int:
    return sum(numbers)
