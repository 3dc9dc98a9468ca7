"""Prefill and decode overlap: shown from the workers' own spans, on mock GPUs."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from time import monotonic_ns, sleep

import pytest
from stack import Stack, collect, running_stack

from gateway.shared_state import Limits
from tandem.core.reports import SpanKind

# Prompts come again.
FLAGS = ("--prefix-caching=off",)


async def run_batches(stack: Stack, num_requests: int, num_tokens: int, max_tokens: int) -> None:
    streams = [
        stack.submit(f"r{i}", (i % 256,) * num_tokens, max_tokens) for i in range(num_requests)
    ]
    await asyncio.gather(*map(collect, streams))
    await stack.until_all_free()


async def test_batch_two_prefills_while_batch_one_decodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both workers are on one host and so on one clock: their spans can be laid side by side."""
    # The fake engine's KV is small: a frame for each layer, as a real model's prompts have it.
    monkeypatch.setenv("TANDEM_MIN_FRAME_BYTES", "1")
    async with running_stack(1, 1, *FLAGS, devices=["mock:h100x4"], limits=Limits(2048)) as stack:
        await run_batches(stack, num_requests=16, num_tokens=1024, max_tokens=32)
        batches = stack.spans("prefill", SpanKind.STEP)
        steps = stack.spans("decode", SpanKind.STEP)
        later = [batch for batch in batches if batch.start_ns > steps[0].start_ns]
        assert len(later) >= 6
        for batch in later:
            inside = [
                step
                for step in steps
                if batch.start_ns < step.start_ns < step.end_ns < batch.end_ns
            ]
            assert inside, "no decode step ran while a later batch was prefilled"
        transfers = stack.spans("prefill", SpanKind.TRANSFER)
        assert len(transfers) == 16
        computed_ns = {each.sequence_id: each.compute_end_ns for each in transfers}
        frames = stack.spans("prefill", SpanKind.FRAME_SENT)
        early = [each for each in frames if each.end_ns < computed_ns[each.sequence_id]]
        assert len(early) > len(frames) * 2 / 3, "most KV left only when all of it was computed"


def silence() -> tuple[int, int]:
    """A while in which the gateway says nothing: from when, to when."""
    start_ns = monotonic_ns()
    sleep(0.2)
    return start_ns, monotonic_ns()


async def test_a_queued_batch_starts_without_a_message() -> None:
    """It waits at the worker when the batch before it ends, though the gateway is silent then."""
    async with running_stack(1, 1, *FLAGS, devices=["mock:h100x4"], limits=Limits(256)) as stack:
        running = asyncio.create_task(
            run_batches(stack, num_requests=100, num_tokens=256, max_tokens=1)
        )
        await stack.until(lambda: stack.spans("prefill", SpanKind.STEP))
        silences = []
        for _ in range(5):
            await asyncio.sleep(0.1)
            silences.append(silence())
        await running
        batches = stack.spans("prefill", SpanKind.STEP)
        num_waiting = sum(not later.waited for _, later in pairwise(batches))
        assert num_waiting >= len(batches) * 5 / 6, "the gateway does not run ahead"
        assert any(
            start_ns < earlier.end_ns and later.start_ns < end_ns
            for earlier, later in pairwise(batches)
            for start_ns, end_ns in silences
        )
