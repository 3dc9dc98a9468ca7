"""Deadlines that pass while requests are anywhere: real workers, which free what they held."""

from __future__ import annotations

import asyncio
import random
import time

from stack import collect, running_stack

from gateway.generation_streams import GenerationStream
from gateway.shared_state import Limits
from tandem.core.errors import DeadlineExceeded


async def error_of(stream: GenerationStream) -> Exception | None:
    try:
        await collect(stream)
    except DeadlineExceeded as error:
        return error
    return None


def phase_of(stream: GenerationStream) -> str:
    """How far a generation got that has ended."""
    generation = stream.generation
    if generation.token_ids:
        return "decoding"
    return "prefilling" if generation.prefill_worker else "queued"


async def test_a_deadline_in_any_phase_ends_the_request_and_frees_all_blocks() -> None:
    rng = random.Random(3)
    async with running_stack(1, 1, devices=["mock:h100x20"], limits=Limits(512)) as stack:
        streams = [
            stack.submit(
                f"r{number}",
                tuple(rng.randrange(256) for _ in range(1000)),
                900,
                # Nothing is known of the workers' pace yet, so nobody is refused.
                deadline_s=time.monotonic() + rng.uniform(0.01, 3.0),
            )
            for number in range(24)
        ]
        errors = await asyncio.gather(*map(error_of, streams))
        assert all(errors)
        assert {phase_of(stream) for stream in streams} == {"queued", "prefilling", "decoding"}
        assert not stack.dispatcher._streams
        await stack.until_all_free()
