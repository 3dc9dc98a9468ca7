"""What the server says of itself: where requests spent their time, how busy its workers were, and
what held it up.

vLLM's metrics tell the stages; Tandem's, which have the same names for them, the rest.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import ceil

from tandem.bench.metrics_scraper import Scrape
from tandem.bench.report.metrics_text import Change, Metrics
from tandem.core.bottleneck import Load, RoleLoad, find_bottleneck, mean_load

WORKER = "tandem_worker"
BUSY = f"{WORKER}_busy_seconds_total"
TRANSFER = f"{WORKER}_kv_transfer_seconds"
EXPOSED = f"{WORKER}_kv_exposed_seconds_total"
STAGES = {
    "queue_ms": "vllm:request_queue_time_seconds",
    "prefill_ms": "vllm:request_prefill_time_seconds",
    "decode_ms": "vllm:request_decode_time_seconds",
}
IDLE = "none"
DIGITS = 4


@dataclass(frozen=True, slots=True)
class Stages:
    """Means over requests: in the queue, from there to the first token, and to the last one."""

    queue_ms: float | None
    prefill_ms: float | None
    decode_ms: float | None


@dataclass(frozen=True, slots=True)
class WorkerAccount:
    """Of the time, the share in which the worker's engine was in a step."""

    worker: str
    role: str
    busy_share: float


@dataclass(frozen=True, slots=True)
class TransferAccount:
    """KV transfers; `hidden_share` is of their time what computing hid."""

    count: int
    num_bytes: int
    mean_ms: float | None
    hidden_share: float | None


@dataclass(frozen=True, slots=True)
class Holdup:
    """What held the server up for a share of the time, as its page would have said."""

    where: str
    share: float
    text: str


@dataclass(frozen=True, slots=True)
class ServerAccount:
    """Over `seconds`. Gauges are means over the scrapes. `efficiency` is busy / (engines *
    seconds). What a server does not tell is None, or empty."""

    seconds: float
    num_scrapes: int
    stages: Stages
    num_running: float | None
    num_waiting: float | None
    kv_usage: float | None
    cached_share: float | None
    preemptions: int
    recoveries: int
    efficiency: float | None = None
    transfers: TransferAccount | None = None
    workers: list[WorkerAccount] = field(default_factory=list)
    holdups: list[Holdup] = field(default_factory=list)


def server_account(scrapes: Sequence[Scrape], start_s: float, end_s: float) -> ServerAccount | None:
    """From the last scrape before the window to the first one after it. None if there are not two
    pages of metrics to compare."""
    chosen = _covering(scrapes, start_s, end_s)
    try:
        pages = [(each.at_s, Metrics(each.text)) for each in chosen]
    except ValueError:
        return None
    if len(pages) < 2:
        return None
    seconds = pages[-1][0] - pages[0][0]
    change = Change(*(page for _, page in pages))
    workers = _workers(change, seconds)
    return ServerAccount(
        seconds=round(seconds, DIGITS),
        num_scrapes=len(pages),
        stages=Stages(**{name: _ms(change.mean(metric)) for name, metric in STAGES.items()}),
        num_running=_mean(pages, "vllm:num_requests_running"),
        num_waiting=_mean(pages, "vllm:num_requests_waiting"),
        kv_usage=_mean(pages, "vllm:kv_cache_usage_perc"),
        cached_share=_rounded(
            change.ratio("vllm:prefix_cache_hits_total", "vllm:prefix_cache_queries_total")
        ),
        preemptions=round(change.total("vllm:num_preemptions_total")),
        recoveries=round(change.total("tandem_recoveries_total")),
        efficiency=_rounded(sum(each.busy_share for each in workers) / len(workers))
        if workers
        else None,
        transfers=_transfers(change) if workers else None,
        workers=workers,
        holdups=_holdups(pages) if workers else [],
    )


def _covering(scrapes: Sequence[Scrape], start_s: float, end_s: float) -> Sequence[Scrape]:
    first = max((at for at, each in enumerate(scrapes) if each.at_s <= start_s), default=0)
    last = min(
        (at for at, each in enumerate(scrapes) if each.at_s >= end_s), default=len(scrapes) - 1
    )
    return scrapes[first : last + 1]


def _workers(change: Change, seconds: float) -> list[WorkerAccount]:
    """All that there were at some time."""
    return [
        WorkerAccount(worker, role, round(min(1.0, busy_s / seconds), DIGITS))
        for role in ("prefill", "decode")
        for worker, busy_s in sorted(change.by("worker", BUSY, role=role).items())
    ]


def _transfers(change: Change) -> TransferAccount:
    exposed = change.ratio(EXPOSED, f"{TRANSFER}_sum")
    return TransferAccount(
        count=round(change.total(f"{TRANSFER}_count")),
        num_bytes=round(change.total(f"{WORKER}_kv_sent_bytes_total")),
        mean_ms=_ms(change.mean(TRANSFER)),
        hidden_share=None if exposed is None else round(1 - exposed, DIGITS),
    )


def _holdups(pages: Sequence[tuple[float, Metrics]]) -> list[Holdup]:
    """By their share of the time in which there was anything to do; of each what is to be said of
    the mean of that time."""
    seconds: defaultdict[str, float] = defaultdict(float)
    loads: defaultdict[str, list[Load]] = defaultdict(list)
    for (before_s, before), (after_s, after) in pairwise(pages):
        load = load_between(before, after, after_s - before_s)
        where = find_bottleneck(load).where
        if where != IDLE:
            seconds[where] += after_s - before_s
            loads[where].append(load)
    whole_s = sum(seconds.values())
    longest_first = sorted(seconds.items(), key=lambda each: -each[1])
    return [
        Holdup(where, round(took_s / whole_s, DIGITS), _text(where, loads[where]))
        for where, took_s in longest_first
    ]


def _text(where: str, loads: Sequence[Load]) -> str:
    # A place may hold things up in several ways, whose mean is none: then the last says it.
    found = find_bottleneck(mean_load(loads))
    return found.text if found.where == where else find_bottleneck(loads[-1]).text


def load_between(before: Metrics, after: Metrics, seconds: float) -> Load:
    """The load between two pages, as the server's own page sees it at a moment."""
    change = Change(before, after)
    prefill, decode = (
        _role(role, change, before, after, seconds) for role in ("prefill", "decode")
    )
    in_flight = max(page.total("tandem_requests_in_flight") for page in (before, after))
    has_worked = change.total("vllm:generation_tokens_total") > 0
    sending_s = change.total(f"{TRANSFER}_sum")
    queued = [page.total("vllm:num_requests_waiting") for page in (before, after)]
    return Load(
        prefill,
        decode,
        num_queued=ceil(sum(queued) / 2),
        num_in_flight=max(int(in_flight), int(has_worked)),
        # Transfers that overlap would count twice.
        sending_share=min(1.0, sending_s / (seconds * max(1, prefill.num_open))),
        exposed_share=change.ratio(EXPOSED, f"{TRANSFER}_sum") or 0.0,
        missing="" if decode.num_open else "decode",
    )


def _role(role: str, change: Change, before: Metrics, after: Metrics, seconds: float) -> RoleLoad:
    trusted = after.by("worker", f"{WORKER}_trusted", role=role)
    draining = after.by("worker", f"{WORKER}_draining", role=role)
    opened = [each for each, value in trusted.items() if value and not draining.get(each)]
    busy = change.by("worker", BUSY, role=role)
    busy_s = sum(busy.get(each, 0.0) for each in opened)
    pages = (before, after)
    blocks, free, sequences = (
        sum(page.total(f"{WORKER}_{name}", role=role) for page in pages)
        for name in ("kv_blocks", "kv_free_blocks", "sequences")
    )
    return RoleLoad(
        num_open=len(opened),
        busy_share=min(1.0, busy_s / (seconds * max(1, len(opened)))),
        num_sequences=round(sequences / len(pages)),
        num_places=round(after.total(f"{WORKER}_places", role=role)),
        used_share=(blocks - free) / max(1.0, blocks),
    )


def _mean(pages: Sequence[tuple[float, Metrics]], name: str) -> float | None:
    values = [page.total(name) for _, page in pages if name in page]
    return round(sum(values) / len(values), DIGITS) if values else None


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1e3, DIGITS)


def _rounded(share: float | None) -> float | None:
    return None if share is None else round(share, DIGITS)
