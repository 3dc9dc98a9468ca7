"""Is the transfer hidden, and what does sending cost the prefill?

Starts one prefill and one decode worker on a core each, and sends prompts of one length, one at a
time, in interleaved pairs: once to be decoded (its KV is sent while it is computed), once with
`max_tokens=1` (nothing is sent). Prints, from the workers' own spans, the share of the transfers
that compute hid and the ratio of the prefill steps' durations.

    .venv/bin/python benchmarks/pipeline.py [--tokens 512] [--pairs 15] [--dtype bfloat16]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from stack import Stack, collect, running_stack, silence_logs

from tandem.core.pipeline import hidden_share
from tandem.core.reports import SpanKind


async def prefill_ns(stack: Stack, prompt: tuple[int, ...], max_tokens: int, name: str) -> int:
    """Run one prompt to its end; the duration of its prefill step."""
    before = len(stack.spans("prefill", SpanKind.STEP))
    await collect(stack.submit(name, prompt, max_tokens))
    await stack.until(lambda: len(stack.spans("prefill", SpanKind.STEP)) > before)
    await stack.until_all_free()
    step = stack.spans("prefill", SpanKind.STEP)[-1]
    return step.end_ns - step.start_ns


async def main(num_tokens: int, num_pairs: int, dtype: str) -> None:
    silence_logs()
    rng = random.Random(0)
    cores = sorted(os.sched_getaffinity(0))
    devices = [f"cpu:{cores[0]}", f"cpu:{cores[-1]}"]
    # Each prompt comes twice.
    flags = (f"--dtype={dtype}", "--prefix-caching=off")
    async with running_stack(1, 1, *flags, model="default", devices=devices) as stack:
        ratios = []
        for pair in range(num_pairs + 1):
            prompt = tuple(rng.randrange(1000, 40000) for _ in range(num_tokens))
            arms = {"sent": 2, "kept": 1}
            order = list(arms) if pair % 2 else list(reversed(arms))
            times = {
                arm: await prefill_ns(stack, prompt, arms[arm], f"{arm}{pair}") for arm in order
            }
            if pair:  # The first warms up.
                ratios.append(times["sent"] / times["kept"])
        transfers = stack.spans("prefill", SpanKind.TRANSFER)[1:]
    each = sorted(hidden_share([transfer]) for transfer in transfers)
    mib = statistics.median(transfer.num_bytes for transfer in transfers) / 2**20
    print(f"{num_tokens} tokens, {dtype}, {num_pairs} pairs, {mib:.1f} MiB of KV a prompt")
    print(f"hidden share of the transfers: median {statistics.median(each):.3f}, min {each[0]:.3f}")
    print(
        f"prefill with sending / without: median {statistics.median(ratios):.3f}, "
        f"quartiles {statistics.quantiles(ratios)[0]:.3f} to {statistics.quantiles(ratios)[2]:.3f}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--dtype", default="bfloat16")
    args = parser.parse_args()
    asyncio.run(main(args.tokens, args.pairs, args.dtype))
