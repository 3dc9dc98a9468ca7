"""What the server says of itself, and what limited a load."""

from __future__ import annotations

from dataclasses import replace

import pytest
from load_reports import SERVER

from tandem.bench.metrics_scraper import Scrape
from tandem.bench.report.limit import LoadTool, find_limit, late_bound_ms
from tandem.bench.report.metrics_text import Change, Metrics
from tandem.bench.report.server_account import ServerAccount, server_account
from tandem.bench.report.stats import Stats

TOOL = LoadTool(0.1, 0.9, 3.0, 0.2)


def page(*lines: str) -> str:
    return "".join(f"{line}\n" for line in lines)


def histogram(name: str, count: int, total_s: float) -> list[str]:
    return [
        f"# TYPE {name} histogram",
        f'{name}_bucket{{engine="0",le="+Inf"}} {count}',
        f'{name}_count{{engine="0"}} {count}',
        f'{name}_sum{{engine="0"}} {total_s}',
    ]


def worker(name: str, role: str, busy_s: float, **gauges: float) -> list[str]:
    labels = f'{{worker="{name}",role="{role}"}}'
    values = {"trusted": 1, "draining": 0, "kv_blocks": 100, "kv_free_blocks": 60, **gauges}
    return [
        f"tandem_worker_busy_seconds_total{labels} {busy_s}",
        *(f"tandem_worker_{gauge}{labels} {value}" for gauge, value in values.items()),
    ]


def tandem(at_s: float, busy: float, waiting: int = 0, **gauges: float) -> Scrape:
    """A page of a fleet whose decode worker was busy for a share of the time so far."""
    count = int(at_s * 10)
    return Scrape(
        100.0 + at_s,
        page(
            *histogram("vllm:request_queue_time_seconds", count, count * 0.01),
            *histogram("vllm:request_prefill_time_seconds", count, count * 0.2),
            *histogram("vllm:request_decode_time_seconds", count, count * 1.5),
            *histogram("tandem_worker_kv_transfer_seconds", count, count * 0.05),
            f"tandem_worker_kv_exposed_seconds_total {count * 0.01}",
            f"tandem_worker_kv_sent_bytes_total {count * 1000}",
            f"vllm:prefix_cache_queries_total {count * 100}",
            f"vllm:prefix_cache_hits_total {count * 25}",
            f"vllm:generation_tokens_total {count * 20}",
            f"vllm:num_requests_waiting {waiting}",
            "vllm:num_requests_running 4",
            'tandem_requests_in_flight{tenant="default"} 4',
            *worker("prefill-0", "prefill", at_s * 0.25),
            *worker("decode-0", "decode", at_s * busy, **gauges),
        ),
    )


def account(*scrapes: Scrape, start_s: float = 100.0, end_s: float = 110.0) -> ServerAccount:
    made = server_account(scrapes, start_s, end_s)
    assert made
    return made


def test_stages_and_workers_are_told() -> None:
    made = account(*(tandem(at, 0.5) for at in (0, 5, 10)))
    assert (made.stages.queue_ms, made.stages.prefill_ms, made.stages.decode_ms) == (10, 200, 1500)
    assert [(each.worker, each.busy_share) for each in made.workers] == [
        ("prefill-0", 0.25),
        ("decode-0", 0.5),
    ]
    assert made.efficiency == 0.375
    assert (made.cached_share, made.num_running) == (0.25, 4)
    assert made.transfers
    assert (made.transfers.count, made.transfers.hidden_share) == (100, 0.8)
    assert (made.transfers.mean_ms, made.transfers.num_bytes) == (50, 100_000)


def test_what_held_it_up_is_told_by_its_share_of_the_time() -> None:
    scrapes = [tandem(at, 0.5) for at in (0, 2)]
    scrapes += [tandem(at, 0.5 + at / 20, waiting=3) for at in (6, 10)]
    made = account(*scrapes)
    assert [(each.where, each.share) for each in made.holdups] == [
        ("decode", 0.8),
        ("clients", 0.2),
    ]
    assert made.holdups[0].text == "98% busy, 3 prompts wait"


def test_a_full_pool_is_told() -> None:
    scrapes = [tandem(at, 0.5, waiting=2, kv_free_blocks=1) for at in (0, 5)]
    assert account(*scrapes).holdups[0].text == "KV pool full, 2 prompts wait"


def test_all_places_taken_is_told() -> None:
    scrapes = [tandem(at, 0.5, waiting=2, sequences=8, places=8) for at in (0, 5)]
    assert account(*scrapes).holdups[0].text == "all 8 places taken, 2 prompts wait"


def test_what_holds_it_up_is_told_as_it_was_on_average() -> None:
    scrapes = [tandem(at, 1.0, waiting=waiting) for at, waiting in ((0, 9), (1, 9), (2, 9), (3, 0))]
    assert account(*scrapes).holdups[0].text == "100% busy, 8 prompts wait"


def test_a_gateway_that_was_started_anew_takes_nothing_from_the_account() -> None:
    before = [tandem(at, 0.5) for at in (0, 4, 8)]
    after = [replace(tandem(at, 0.5), at_s=109.0 + at) for at in (0, 2)]
    made = account(*before, *after, end_s=111.0)
    assert made.stages.queue_ms == 10
    assert [each.busy_share for each in made.workers] == [round(10 * 0.25 / 11, 4), 0.4545]
    assert made.transfers and made.transfers.count == 100


def test_workers_that_are_gone_at_the_end_are_in_the_account() -> None:
    gone = Scrape(110.0, page("vllm:generation_tokens_total 900", "vllm:num_requests_waiting 2"))
    made = account(*(tandem(at, 1.0) for at in (0, 4, 8)), gone)
    assert [(each.worker, each.busy_share) for each in made.workers] == [
        ("prefill-0", 0.2),
        ("decode-0", 0.8),
    ]
    assert [(each.where, each.share) for each in made.holdups] == [
        ("decode", 0.8),
        ("workers", 0.2),
    ]


def test_only_the_window_counts() -> None:
    scrapes = [tandem(at, 0.5) for at in range(20)]
    made = account(*scrapes, start_s=105.5, end_s=107.2)
    assert (made.seconds, made.num_scrapes) == (3, 4)


def test_another_server_tells_its_stages_and_no_more() -> None:
    pages = (
        page(*histogram("vllm:request_queue_time_seconds", count, count * 0.5)) for count in (2, 6)
    )
    made = account(*(Scrape(100.0 + at, text) for at, text in enumerate(pages)))
    assert (made.stages.queue_ms, made.stages.decode_ms) == (500, None)
    assert (made.workers, made.holdups, made.efficiency, made.transfers) == ([], [], None, None)


@pytest.mark.parametrize("scrapes", [[], [tandem(0, 0.5)], [Scrape(0, "<html>"), Scrape(1, "{")]])
def test_without_metrics_nothing_is_told(scrapes: list[Scrape]) -> None:
    assert server_account(scrapes, 0.0, 1.0) is None


def test_a_server_that_was_started_anew_has_counted_nothing() -> None:
    change = Change(Metrics("tokens_total 90\n"), Metrics("tokens_total 20\n"))
    assert change.total("tokens_total") == 0


def test_the_load_tool_is_the_limit_where_it_is() -> None:
    assert find_limit(replace(TOOL, late_p99_ms=40.0), SERVER).is_load_tool
    assert find_limit(replace(TOOL, cores=0.97), SERVER).is_load_tool
    unsent = find_limit(replace(TOOL, num_unsent=3), SERVER)
    assert (unsent.is_load_tool, "no connection for 3 requests" in unsent.text) == (True, True)
    limit = find_limit(TOOL, SERVER)
    assert (limit.where, limit.is_load_tool) == ("decode", False)
    assert limit.text == "80% of the time: 93% busy"
    assert find_limit(TOOL, None).where == "not known"


@pytest.mark.parametrize(
    ("arrivals", "ttft_ms", "is_load_tool"),
    [
        ("at once", 2000.0, False),
        ("closed", 2000.0, False),
        ("at once", 900.0, True),
        ("poisson", 2000.0, True),
    ],
)
def test_a_burst_takes_its_time_to_begin(arrivals: str, ttft_ms: float, is_load_tool: bool) -> None:
    tool = replace(TOOL, late_p99_ms=120.0)
    late_ms = late_bound_ms(arrivals, Stats.of([ttft_ms]))
    assert find_limit(tool, SERVER, late_ms=late_ms).is_load_tool is is_load_tool
    assert late_bound_ms(arrivals, None) == late_bound_ms(arrivals, Stats.of([1.0])) == 25.0


def test_a_worker_that_is_gone_takes_nothing_from_the_others() -> None:
    before = Metrics('sent_total{worker="a"} 100\nsent_total{worker="b"} 100\n')
    change = Change(before, Metrics('sent_total{worker="b"} 150\n'))
    assert change.total("sent_total") == 50
    assert change.by("worker", "sent_total") == {"b": 50}


def test_why_a_server_does_not_tell_is_told() -> None:
    assert "http://h/metrics: refused" in find_limit(TOOL, None, "http://h/metrics: refused").text
