"""What Prometheus reads of a gateway and of a worker, after known requests."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import httpx
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from running_gateway import running_gateway
from stack import Stack, WorkerProcess, running_stack, started
from test_shared_prefixes import NUM_SHARED_TOKENS, NUM_TOKENS, ask, question

from gateway.lag import Lag
from gateway.metrics_page import GatewayCollector
from tandem.bench.ports import free_port
from tandem.core.worker import WorkerRole
from tandem.process.metrics import MetricsPage

Samples = Mapping[tuple[str, tuple[tuple[str, str], ...]], float]


def samples(text: str) -> Samples:
    """Every sample of a page, by name and labels; those of the model's name and engine left out."""
    return {
        (
            sample.name,
            tuple(
                item
                for item in sorted(sample.labels.items())
                if item[0] not in ("model_name", "engine", "device")
            ),
        ): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def page(stack: Stack) -> Samples:
    dispatcher = stack.dispatcher
    collector = GatewayCollector(dispatcher._scheduler, dispatcher.metrics, Lag(), "mock")
    return samples(generate_latest(MetricsPage(collector).registry).decode())


def total(found: Samples, name: str, **labels: str) -> float:
    """The sum of a name's samples that have such labels."""
    return sum(
        value
        for (each, own), value in found.items()
        if each == name and labels.items() <= dict(own).items()
    )


async def test_what_was_served_is_counted_once() -> None:
    async with running_stack(1, 1) as stack:
        for number in range(3):
            await ask(stack, f"r{number}", question(number))
        cancelled = stack.submit("cancelled", question(9), 1000)
        await stack.until(lambda: len(cancelled.generation.token_ids) > 5)
        during = page(stack)
        cancelled.cancel()
        await stack.until_all_free()
        found = page(stack)
        unused = "tandem_worker_kv_unused_slots"
        await stack.until(lambda: total(page(stack), unused, role="decode") == 0)

    num_prompt_tokens = 4 * len(question(0))
    num_generated = 3 * NUM_TOKENS + len(cancelled.generation.token_ids)
    assert total(found, "vllm:prompt_tokens_total") == num_prompt_tokens
    assert total(found, "vllm:generation_tokens_total") == num_generated
    assert total(found, "vllm:prefix_cache_queries_total") == num_prompt_tokens
    assert total(found, "vllm:prefix_cache_hits_total") == 3 * NUM_SHARED_TOKENS
    assert total(found, "vllm:request_success_total", finished_reason="length") == 3
    assert total(found, "vllm:request_success_total", finished_reason="abort") == 1
    assert total(found, "tandem_requests_total", mode="disaggregated") == 4
    for name, count in (
        ("time_to_first_token_seconds", 4),
        ("request_queue_time_seconds", 4),
        ("request_prefill_time_seconds", 4),
        ("e2e_request_latency_seconds", 3),
        ("request_generation_tokens", 3),
        ("inter_token_latency_seconds", num_generated - 4),
    ):
        assert total(found, f"vllm:{name}_count") == count, name
    assert total(found, "vllm:request_generation_tokens_sum") == 3 * NUM_TOKENS

    assert total(during, "vllm:num_requests_running") == 1
    assert total(during, "vllm:kv_cache_usage_perc") > 0
    assert total(found, "vllm:num_requests_running") == 0
    assert total(found, "vllm:num_requests_waiting") == 0
    assert total(found, "vllm:kv_cache_usage_perc") == 0
    assert total(found, "tandem_worker_sequences") == 0


async def test_each_worker_shows_what_it_did() -> None:
    async with running_stack(1, 1) as stack:
        by = await ask(stack, "cold", question(0))
        await ask(stack, "warm", question(1))
        # Spans come with the next message.
        sent = "tandem_worker_kv_transfer_seconds_count"
        await stack.until(lambda: total(page(stack), sent) == 2)
        found = page(stack)
    uncached = 2 * len(question(0)) - NUM_SHARED_TOKENS
    assert total(found, "tandem_worker_prompt_tokens_total", role="prefill") == uncached
    assert total(found, "tandem_worker_generated_tokens_total", role="decode") >= 2 * NUM_TOKENS - 2
    assert total(found, "tandem_worker_prefix_cache_hits_total") == NUM_SHARED_TOKENS
    token_bytes = by.kv_bytes // len(question(0))
    num_bytes = uncached * token_bytes
    assert total(found, "tandem_worker_kv_sent_bytes_total", role="prefill") == num_bytes
    assert total(found, "tandem_worker_kv_received_bytes_total", role="decode") == num_bytes
    assert total(found, "tandem_worker_busy_seconds_total", role="prefill") > 0


async def test_a_gateway_answers_scrapes() -> None:
    async with running_gateway() as gateway, gateway.client() as client:
        body = {"prompt": "hello", "max_tokens": 3, "ignore_eos": True}
        assert (await client.post("/v1/completions", json=body)).status_code == 200
        response = await client.get("/metrics")
        refused = await client.post("/v1/completions", json={**body, "prompt": "x" * 10**6})
        assert refused.status_code == 400
    assert response.headers["content-type"].startswith("text/plain")
    found = samples(response.text)
    assert total(found, "vllm:generation_tokens_total") == 3
    assert total(found, "process_open_fds") > 0
    assert 'model_name="mock"' in response.text
    assert total(found, "tandem_ready") == 1
    assert total(found, "tandem_worker_addresses", role="decode") == 1
    assert total(found, "tandem_workers", role="decode", state="serving") == 1


async def test_a_worker_answers_scrapes() -> None:
    port = free_port()
    flags = ("--model=mock", "--device=mock:zero", f"--metrics-port={port}")
    worker = WorkerProcess(WorkerRole.DECODE, *flags)
    async with started(worker), httpx.AsyncClient() as client, asyncio.timeout(60):
        while True:
            try:
                response = await client.get(f"http://127.0.0.1:{port}/metrics")
                break
            except httpx.TransportError:
                await asyncio.sleep(0.05)
    found = samples(response.text)
    assert total(found, "tandem_engine_kv_free_blocks", role="decode") == total(
        found, "tandem_engine_kv_blocks"
    )
    (held,) = (held for (name, _), held in found.items() if name == "tandem_engine_has_controller")
    assert held == 0
    assert total(found, "process_resident_memory_bytes") > 0
