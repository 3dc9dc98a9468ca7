"""A tenant that floods the gateway, beside one that is polite; quotas and deadlines.

Real processes on mock GPUs. Waiting is counted in others' prompts that are served before one's own,
not in seconds: these say the same on any machine.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest
import pytest_asyncio
import structlog
from running_gateway import Gateway, running_gateway
from stack import Stack, collect, expected_mock_tokens, running_stack

import tandem
from gateway.generation_streams import GenerationStream
from gateway.prefill_view import MAX_BATCHES
from gateway.shared_state import Limits
from gateway.tenants import DEFAULT_TENANT, ONE_TENANT, Tenant
from tandem.core.errors import DeadlineExceeded, RateLimitExceeded, Unavailable

PROMPT_TOKENS = 256
BATCH_PROMPTS = 2
NUM_FLOODING = 60
NUM_POLITE = 4
# In batches under way when a prompt comes, and in the one that forms.
UNDER_WAY = (MAX_BATCHES + 1) * BATCH_PROMPTS


async def served_before(stack: Stack, tenant: str, max_tokens: int) -> list[int]:
    """One tenant sends all it has at once; then `tenant` sends one request after the other: how
    many of the flood's first tokens come between each one's submission and its first token."""
    flood = [stack.submit(f"f{i}", (i,) * PROMPT_TOKENS, max_tokens) for i in range(NUM_FLOODING)]
    await stack.until(lambda: num_started(flood) >= BATCH_PROMPTS)
    counts = []
    for index in range(NUM_POLITE):
        before = num_started(flood)
        polite = stack.submit(f"p{index}", (200 + index,) * PROMPT_TOKENS, 1, tenant=tenant)
        assert len(await collect(polite)) == 2
        counts.append(num_started(flood) - before)
    for stream in flood:
        tokens, _ = await collect(stream)
        prompt = stream.generation.request.prompt_token_ids
        assert tokens == expected_mock_tokens(prompt, max_tokens)
    await stack.until_all_free()
    return counts


def num_started(streams: list[GenerationStream]) -> int:
    return sum(bool(each.generation.token_ids) for each in streams)


@pytest.mark.parametrize("num_prefill", [0, 1])
async def test_a_flood_of_one_tenant_is_no_other_tenants_matter(num_prefill: int) -> None:
    """Symptom: time to first token grows with somebody else's queue. What shows it: prompts served
    before one's own. With two tenants, these are those under way, and then one for one."""
    limits = Limits(max_batch_tokens=BATCH_PROMPTS * PROMPT_TOKENS)
    settings = {
        "devices": ["mock:h100"],
        "limits": limits,
        "policy": "fcfs",
        "prefill_token_budget": PROMPT_TOKENS,
    }
    tenants = {**ONE_TENANT, "polite": Tenant()}
    # Prompts that are cached take no time, and no turns.
    off = "--prefix-caching=off"
    async with running_stack(num_prefill, 1, off, **settings, tenants=tenants) as stack:  # type: ignore[arg-type]
        alone = await served_before(stack, DEFAULT_TENANT, 3)
        beside = await served_before(stack, "polite", 3)
    assert alone[0] > NUM_FLOODING - 2 * UNDER_WAY
    assert max(beside) <= UNDER_WAY + 1


async def test_places_on_decode_workers_are_shared_under_contention() -> None:
    """Many short prompts with long answers would have all places before they are charged for."""
    tenants = {**ONE_TENANT, "polite": Tenant()}
    flags = ("--max-num-seqs=8",)
    async with running_stack(1, 1, *flags, policy="fcfs", tenants=tenants) as stack:
        flood = [stack.submit(f"f{i}", (i,) * 16, 500) for i in range(12)]
        polite = [stack.submit(f"p{i}", (99, i) * 200, 5, tenant="polite") for i in range(4)]
        await stack.until(lambda: num_started(polite) == 4)
        assert num_started(flood) <= 4
        await asyncio.gather(*map(collect, (*flood, *polite)))
        await stack.until_all_free()


async def test_what_is_over_frees_what_it_held_on_both_workers() -> None:
    async with running_stack(1, 1, devices=["mock:h100x100"]) as stack:
        stream = stack.submit("r", (7,) * 64, 2000, deadline_s=time.monotonic() + 1.5)
        with pytest.raises(DeadlineExceeded):
            await collect(stream)
        assert len(stream.generation.token_ids) < 2000
        await stack.until_all_free()


async def test_what_cannot_be_in_time_is_refused_before_any_work() -> None:
    """Symptom: under overload everybody is served too late. What the system does: who could not be
    in time is told so at once, and when to come again; whoever can wait is let in."""
    async with running_stack(1, 1, devices=["mock:h100x50"]) as stack:
        first = stack.submit("first", (1,) * PROMPT_TOKENS, 1)
        await collect(first)
        # A hundred thousand tokens: at 50 times an H100's pace a matter of minutes.
        flood = [stack.submit(f"f{i}", (i,) * 2000, 1) for i in range(50)]
        with pytest.raises(Unavailable) as caught, structlog.testing.capture_logs() as logs:
            stack.submit("late", (2,) * 2000, 1, deadline_s=time.monotonic() + 10)
        assert [(each["event"], each["tenant"]) for each in logs] == [
            ("requests refused", "default")
        ]
        assert caught.value.retry_after_s and caught.value.retry_after_s > 10
        patient = stack.submit("patient", (3,) * 2000, 1, deadline_s=time.monotonic() + 10_000)
        for stream in (*flood, patient):
            stream.cancel()
        await stack.until_all_free()


# Through the gateway's own process

TENANTS = """
[default]
max_requests = 64

[one]
max_requests = 1

[another]
max_requests = 1

[small]
max_tokens_in_flight = 100
"""
# Enough to know the pace.
NUM_STEPS = 8
CHAT = [{"role": "user", "content": "Hi"}]

in_module = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def tenants_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tenants") / "tenants.toml"
    path.write_text(TENANTS)
    return path


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(tenants_file: Path) -> AsyncIterator[Gateway]:
    async with running_gateway("mock:h100x20", f"--tenants={tenants_file}") as gateway:
        yield gateway


async def take(stream: AsyncIterable[Any], num_events: int) -> None:
    """Wait for so many events."""
    events = aiter(stream)
    for _ in range(num_events):
        await anext(events)


def client_of(gateway: Gateway, tenant: str) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(
        base_url=f"http://127.0.0.1:{gateway.http_port}/v1",
        api_key="none",
        max_retries=0,
        default_headers={"X-Tandem-Tenant": tenant},
    )


@in_module
async def test_openais_client_learns_when_to_come_again(gateway: Gateway) -> None:
    async with client_of(gateway, "one") as one, client_of(gateway, "two") as other:
        stream = await one.chat.completions.create(
            model="default", messages=CHAT, max_tokens=1000, stream=True
        )
        await take(stream, NUM_STEPS)
        with pytest.raises(openai.RateLimitError) as caught:
            await one.chat.completions.create(model="default", messages=CHAT, max_tokens=4)
        assert caught.value.code == "rate_limit_exceeded"
        # As answers go, and not when it has all of its thousand tokens.
        assert 1 <= int(caught.value.response.headers["retry-after"]) < 20
        answer = await other.chat.completions.create(
            model="default", messages=CHAT, max_tokens=2, extra_body={"priority": -5, "timeout": 60}
        )
        assert answer.usage and answer.usage.completion_tokens == 2
        await stream.close()


@in_module
async def test_a_deadline_ends_a_stream_and_an_answer(gateway: Gateway) -> None:
    async with client_of(gateway, "default") as client:
        with pytest.raises(openai.InternalServerError) as caught:
            await client.chat.completions.create(
                model="default", messages=CHAT, max_tokens=2000, extra_body={"timeout": 0.5}
            )
        assert (caught.value.status_code, caught.value.code) == (504, "deadline_exceeded")


@in_module
async def test_the_sdk_says_whose_a_request_is(gateway: Gateway) -> None:
    async with (
        tandem.AsyncClient(gateway.grpc_address, tenant="another") as one,
        one.stream(prompt="Hi", max_tokens=1000, priority=2) as stream,
    ):
        await take(stream, NUM_STEPS)
        with pytest.raises(RateLimitExceeded) as caught:
            await one.generate(prompt="Hi", max_tokens=2)
        assert caught.value.retry_after_s and caught.value.retry_after_s < 20
    async with tandem.AsyncClient(gateway.grpc_address, tenant="small") as small:
        with pytest.raises(tandem.core.errors.InvalidRequest, match="100 tokens in flight"):
            await small.generate(prompt="Hi", max_tokens=100)
        with pytest.raises(DeadlineExceeded):
            await small.generate(prompt="Hi", max_tokens=90, timeout=0.2)
        assert len((await small.generate(prompt="Hi", max_tokens=3)).token_ids) == 3
        # Who does not say how many gets what there is.
        assert len((await small.generate(prompt="Hi", ignore_eos=True)).token_ids) == 98
