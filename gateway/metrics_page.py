"""`/metrics`: what Prometheus scrapes, read from the gateway's own state when it does.

What vLLM has a name for has vLLM's, so that boards and endpoint pickers made for it show this
system as one engine; what only this system has begins with `tandem_`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import TypeVar

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from gateway.decode_view import DecodeView
from gateway.effects import CheckResult
from gateway.lag import Lag
from gateway.prefill_view import PrefillView
from gateway.refusals import REASONS
from gateway.request_metrics import FAILURES, FINISHED, RequestMetrics
from gateway.scheduler import Scheduler
from tandem.core.histogram import Histogram
from tandem.process.metrics import counter, gauge, histogram, span_families

ENGINE_LABELS = ("model_name", "engine")
# The whole system is one engine to who knows vLLM's.
ENGINE = "0"
WORKER_LABELS = ("worker", "role")

Key = TypeVar("Key", str, tuple[str, str])
Total = tuple[str, str, Callable[[RequestMetrics], float]]
Times = tuple[str, str, Callable[[RequestMetrics], Histogram]]

VLLM_COUNTERS: tuple[Total, ...] = (
    ("prompt_tokens", "Prompt tokens of all requests.", attrgetter("num_prompt_tokens")),
    ("generation_tokens", "Tokens generated.", attrgetter("num_generated_tokens")),
    (
        "prefix_cache_queries",
        "Prompt tokens looked up in prefix caches.",
        attrgetter("num_prompt_tokens"),
    ),
    ("prefix_cache_hits", "Prompt tokens found there.", attrgetter("num_cached_tokens")),
)
VLLM_HISTOGRAMS: tuple[Times, ...] = (
    ("time_to_first_token_seconds", "From a request's arrival.", attrgetter("first_token_s")),
    ("inter_token_latency_seconds", "Between two tokens.", attrgetter("between_tokens_s")),
    (
        "request_time_per_output_token_seconds",
        "An answer's mean, after its first token.",
        attrgetter("per_token_s"),
    ),
    ("e2e_request_latency_seconds", "From a request's arrival to its end.", attrgetter("whole_s")),
    ("request_queue_time_seconds", "In the queue.", attrgetter("queued_s")),
    (
        "request_prefill_time_seconds",
        "From the queue to the first token.",
        attrgetter("prefill_s"),
    ),
    ("request_decode_time_seconds", "From the first to the last token.", attrgetter("decode_s")),
    ("request_prompt_tokens", "Tokens of prompts.", attrgetter("prompt_lengths")),
    ("request_generation_tokens", "Tokens of answers.", attrgetter("answer_lengths")),
)
TANDEM_COUNTERS: tuple[Total, ...] = (
    (
        "moved_kv_bytes",
        "KV of ended requests that went from one worker to another.",
        attrgetter("num_kv_bytes"),
    ),
    (
        "self_checked_tokens",
        "Tokens that were generated once more, and were the same.",
        attrgetter("num_checked_tokens"),
    ),
)


class GatewayCollector(Collector):
    """The families, made anew at each scrape, between two turns of the event loop."""

    def __init__(
        self, scheduler: Scheduler, requests: RequestMetrics, lag: Lag, model_name: str
    ) -> None:
        self._lag = lag
        self._scheduler = scheduler
        self._requests = requests
        self._model_name = model_name

    def collect(self) -> Iterator[Metric]:
        yield from self._vllm_families((self._model_name, ENGINE))
        yield from self._request_families()
        yield from self._setback_families((self._model_name, ENGINE))
        yield from self._queue_families()
        yield from _worker_families(self._scheduler.workers)

    def _vllm_families(self, engine: Sequence[str]) -> Iterator[Metric]:
        scheduler, requests = self._scheduler, self._requests
        pools = [each for each in scheduler.workers if isinstance(each, DecodeView)]
        num_blocks = sum(each.info.num_blocks for each in pools)
        num_used = num_blocks - sum(each.num_free_blocks for each in pools)
        num_queued = scheduler.num_queued
        for name, text, value in (
            (
                "num_requests_running",
                "Requests that workers have.",
                sum(scheduler.num_in_flight.values()) - num_queued,
            ),
            ("num_requests_waiting", "Requests in the queue.", num_queued),
            (
                "kv_cache_usage_perc",
                "Share of the decode workers' KV blocks in use.",
                num_used / max(1, num_blocks),
            ),
        ):
            yield gauge(f"vllm:{name}", text, ENGINE_LABELS, [(engine, value)])
        yield gauge(
            "vllm:cache_config_info",
            "The decode workers' KV pools.",
            (*ENGINE_LABELS, "block_size", "num_gpu_blocks"),
            [
                ((*engine, str(each.info.layout.block_size), str(num_blocks)), 1.0)
                for each in pools[:1]
            ],
        )
        for name, text, total in VLLM_COUNTERS:
            yield counter(f"vllm:{name}", text, ENGINE_LABELS, [(engine, total(requests))])
        reasons = Counter[str]()
        for (reason, _), count in _with_zeros(requests.finished, FINISHED).items():
            reasons[reason] += count
        yield counter(
            "vllm:request_success",
            "Requests that did not fail.",
            (*ENGINE_LABELS, "finished_reason"),
            (((*engine, reason), count) for reason, count in reasons.items()),
        )
        for name, text, times in VLLM_HISTOGRAMS:
            yield histogram(f"vllm:{name}", text, ENGINE_LABELS, [(engine, times(requests))])

    def _request_families(self) -> Iterator[Metric]:
        requests = self._requests
        yield counter(
            "tandem_requests",
            "Requests that did not fail, by how they were served.",
            ("finished_reason", "mode"),
            _with_zeros(requests.finished, FINISHED).items(),
        )
        for name, text, label, counts, known in (
            ("requests_failed", "Requests that failed.", "reason", requests.failed, FAILURES),
            (
                "requests_refused",
                "Requests that were not let in.",
                "reason",
                requests.refused,
                REASONS,
            ),
            (
                "self_checks",
                "Answers generated once more.",
                "result",
                requests.self_checks,
                CheckResult,
            ),
        ):
            rows = (((each,), count) for each, count in _with_zeros(counts, known).items())
            yield counter(f"tandem_{name}", text, (label,), rows)
        for name, text, total in TANDEM_COUNTERS:
            yield counter(f"tandem_{name}", text, (), [((), total(requests))])

    def _setback_families(self, engine: Sequence[str]) -> Iterator[Metric]:
        """As they happen: what is short of memory shows before any of its requests has ended."""
        setbacks = self._requests.setbacks(self._scheduler.generations)
        yield counter(
            "vllm:num_preemptions",
            "Times that requests gave up their KV.",
            ENGINE_LABELS,
            [(engine, setbacks.num_preemptions)],
        )
        for name, text, count in (
            (
                "recoveries",
                "Times that requests went on elsewhere: a worker, or the way to it, was lost.",
                setbacks.num_losses,
            ),
            (
                "bad_transfers",
                "Times that requests were computed again: their KV came damaged.",
                setbacks.num_bad_transfers,
            ),
        ):
            yield counter(f"tandem_{name}", text, (), [((), count)])

    def _queue_families(self) -> Iterator[Metric]:
        scheduler = self._scheduler
        yield gauge(
            "tandem_queued_tokens",
            "Prompt tokens in the queue that are not thought to be cached.",
            (),
            [((), scheduler.num_queued_tokens)],
        )
        yield gauge(
            "tandem_requests_in_flight",
            "Requests that are queued or running.",
            ("tenant",),
            (((tenant,), count) for tenant, count in scheduler.num_in_flight.items()),
        )
        yield gauge(
            "tandem_gateway_lag_seconds",
            "How late the event loop is, or how old what decode workers say when it is read.",
            (),
            [((), self._lag.seconds)],
        )


def _with_zeros(counts: Mapping[Key, int], known: Iterable[Key]) -> Mapping[Key, int]:
    """Also those of what has not happened yet: a counter that is not there before it is 1 has no
    rise to it, and what is rare would never be seen to happen."""
    return {**dict.fromkeys(known, 0), **counts}


def _worker_families(workers: Sequence[PrefillView | DecodeView]) -> Iterator[Metric]:
    labels = [(each.info.worker_id, each.info.role.name.lower()) for each in workers]
    for name, text, values in (
        ("trusted", "0 if it may be lost.", [float(not each.suspect) for each in workers]),
        ("draining", "1 if it gets nothing new.", [float(each.is_draining) for each in workers]),
        ("sequences", "Sequences that it has.", [len(each.generations) for each in workers]),
        (
            "places",
            "Sequences that it may have at the most.",
            [each.info.max_num_seqs for each in workers],
        ),
        ("kv_blocks", "Blocks of its KV pool.", [each.info.num_blocks for each in workers]),
        (
            "kv_free_blocks",
            "Blocks that are free for new sequences.",
            [each.num_free_blocks for each in workers],
        ),
        (
            "kv_unused_slots",
            "Slots of the others that are for no token: internal fragmentation.",
            [each.num_unused_slots for each in workers],
        ),
    ):
        yield gauge(f"tandem_worker_{name}", text, WORKER_LABELS, zip(labels, values, strict=True))
    for name, text, counts in (
        (
            "prefix_cache_queries",
            "Prompt tokens looked up in its prefix cache.",
            [each.num_prompt_tokens for each in workers],
        ),
        (
            "prefix_cache_hits",
            "Prompt tokens found there.",
            [each.num_cached_tokens for each in workers],
        ),
    ):
        rows = zip(labels, counts, strict=True)
        yield counter(f"tandem_worker_{name}", text, WORKER_LABELS, rows)
    totals = [(label, each.totals) for label, each in zip(labels, workers, strict=True)]
    yield from span_families("tandem_worker", WORKER_LABELS, totals)
