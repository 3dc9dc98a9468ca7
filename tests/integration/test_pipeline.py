"""Prefill and decode overlap: shown from the workers' own spans, on mock GPUs."""

from __future__ import annotations

import asyncio
import statistics
from itertools import pairwise

import pytest
from stack import Stack, collect, running_stack

from gateway.batching import Limits
from tandem.core.pipeline import hidden_share
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
        assert hidden_share(transfers) > 0.5


async def test_a_queued_batch_starts_without_a_message() -> None:
    """From the end of a batch to the start of the one that waits; a batch takes long enough for the
    gateway to be ahead on a busy machine, too."""
    async with running_stack(1, 1, *FLAGS, devices=["mock:h100x4"], limits=Limits(256)) as stack:
        await run_batches(stack, num_requests=150, num_tokens=256, max_tokens=1)
        batches = stack.spans("prefill", SpanKind.STEP)
        gaps = [
            later.start_ns - earlier.end_ns
            for earlier, later in pairwise(batches)
            if not later.waited
        ]
        assert len(gaps) >= 125, "few batches were waiting: the gateway does not run ahead"
        median = statistics.median(gaps)
        assert median <= statistics.median(each.end_ns - each.start_ns for each in batches) / 20
        print(f"{len(gaps)} of {len(batches)} batches were waiting; median gap {median} ns")
