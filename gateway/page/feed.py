"""What the page and `tandem top` are told: the state of the whole at a tick, and what the workers
did since the last.

No prompt and no answer is in it, and of the names that clients give their requests only those that
the page's own chat makes up, so that it finds its request in the lanes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import chain, islice
from time import monotonic_ns
from typing import Any

import orjson

from gateway.generation import Generation, Phase
from gateway.page.lane_reader import LaneReader
from gateway.page.load import load_of
from gateway.page.recent import RecentTimes
from gateway.request_metrics import RequestMetrics
from gateway.scheduler import Scheduler
from gateway.timeline import Timeline
from gateway.worker_state import state_of
from tandem.core.bottleneck import find_bottleneck
from tandem.core.errors import ResourceExhausted
from tandem.core.pipeline import PipelineFigures, pipeline_figures

# The figures are of the last 10 s, and worked out anew every second.
FIGURES_MS = 10_000
TICKS_PER_FIGURES = 4
RECENT_TICKS = 40
MAX_REQUESTS = 120
# How the page's chat names its requests, with a random rest.
OWN_PREFIX = "page-"
STAGES = ("queued", "prefill", "transfer", "decode")

Json = dict[str, Any]


class Feed:
    """The ticks for those who look at one time. What it holds is only what it told last."""

    def __init__(self, scheduler: Scheduler, requests: RequestMetrics, timeline: Timeline) -> None:
        self._scheduler = scheduler
        self._requests = requests
        self._timeline = timeline
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
        # The clock that the lanes' spans are on, once their offsets are added.
        now_ns = monotonic_ns()
        workers = self._scheduler.workers
        generations = list(self._scheduler.generations)
        load = load_of(self._scheduler, self._figures, len(generations))
        return {
            "now": now_ns // 1000,
            "model": workers[0].info.model.name if workers else None,
            "lanes": self._lanes.read(now_ns),
            "workers": self._workers(),
            "queue": [self._scheduler.num_queued, self._scheduler.num_queued_tokens],
            "requests": _requests(generations),
            "totals": _totals(self._requests, generations),
            "first_token_s": _quantiles(self._first_token_s),
            "between_tokens_s": _quantiles(self._between_tokens_s),
            "pipeline": _pipeline(self._figures),
            "bottleneck": find_bottleneck(load)._asdict(),
        }

    def _workers(self) -> list[Json]:
        busy = {lane.worker_id: lane.busy_share for lane in self._figures.lanes}
        workers = self._scheduler.workers
        return [
            {
                "id": each.info.worker_id,
                "role": each.info.role.name.lower(),
                "state": state_of(each).value,
                "needed": self._scheduler.needs(each),
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


def _totals(requests: RequestMetrics, generations: Sequence[Generation]) -> Json:
    setbacks = requests.setbacks(generations)
    return {
        "prompt_tokens": requests.num_prompt_tokens,
        "cached_tokens": requests.num_cached_tokens,
        "generated_tokens": requests.num_generated_tokens,
        "kv_bytes": requests.num_kv_bytes,
        "finished": requests.finished.total(),
        "failed": requests.failed.total(),
        "refused": requests.refused.total(),
        "preemptions": setbacks.num_preemptions,
        "recoveries": setbacks.num_losses,
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
