"""Is the transfer hidden, and what does sending cost the prefill?

Starts one prefill and one decode worker on a core each, and sends prompts of one length, one at a
time, in interleaved pairs: once to be decoded (its KV is sent while it is computed), once with
`max_tokens=1` (nothing is sent). Shows, from the workers' own spans, the share of the transfers
that compute hid and the ratio of the prefill steps' durations.

    .venv/bin/python benchmarks/pipeline.py [--tokens 512] [--pairs 15] [--dtype bfloat16 float32]
        [--keep]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import statistics
import sys
from pathlib import Path

from performance.fleet_tables import HIDDEN, Hidden
from performance.notes import Notes, add_keep
from performance.record import this_machine

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from stack import Stack, collect, running_stack, silence_logs

from tandem.bench.percentiles import quartiles
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


async def measure(num_tokens: int, num_pairs: int, dtype: str) -> Hidden:
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
    each = [hidden_share([transfer]) for transfer in transfers]
    return Hidden(
        tokens=num_tokens,
        dtype=dtype,
        kv_mib=statistics.median(transfer.num_bytes for transfer in transfers) / 2**20,
        least=min(each),
        hidden=quartiles(each),
        cost=quartiles(ratios),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--dtype", nargs="+", default=["bfloat16", "float32"])
    add_keep(parser)
    args = parser.parse_args()
    silence_logs()
    notes = Notes(args, this_machine(), f"1p1d, a core each; {args.pairs} interleaved pairs")
    runs = (asyncio.run(measure(args.tokens, args.pairs, each)) for each in args.dtype)
    notes.table(HIDDEN, runs)


if __name__ == "__main__":
    main()
