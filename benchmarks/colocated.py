"""Who waits for whom: the three colocated policies, and disaggregation, on mock GPUs.

Eight streams generate without pause (32 prompt tokens, 128 generated, then the next), while a
prompt of 2,048 tokens arrives at a fixed interval. The engines are fake and take the time of an 8B
model on an H100 by published figures, stretched by `--dilation`, so that this machine's cores are
no bottleneck; all times are printed in the model's own time. Every token is checked.

    .venv/bin/python benchmarks/colocated.py [--seconds 3] [--interval 0.3] [--dilation 5]
        [--keep]
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from time import monotonic

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from performance.fleet_tables import COLOCATED, Together
from performance.notes import Notes, add_keep
from performance.record import this_machine
from stack import Stack, expected_mock_tokens, running_stack, silence_logs, upcoming

from gateway.tokens import Ended, Token
from tandem.bench.answer import Answer
from tandem.bench.percentiles import percentiles
from tandem.bench.workload import Prompt

NUM_SHORT = 8
SHORT_PROMPT, SHORT_TOKENS = 32, 128
LONG_PROMPT, LONG_TOKENS = 2048, 16
# Prefill workers, decode workers, policy; "local" if decode workers compute what they are sooner
# with.
ARMS = (
    (0, 1, "prefill-first"),
    (0, 1, "decode-first"),
    (0, 1, "chunked"),
    (0, 2, "chunked"),
    (1, 1, ""),
    (1, 1, "local"),
)


async def ask(
    stack: Stack, name: str, prompt: tuple[int, ...], num_tokens: int, into: list[Answer]
) -> None:
    answer = Answer(Prompt(prompt, num_tokens), monotonic())
    into.append(answer)
    stream = stack.submit(name, prompt, num_tokens)
    tokens: list[int] = []
    ended = False
    while not ended:
        events = await upcoming(stream)
        ended = isinstance(events[-1], Ended)
        tokens += [event.token_id for event in events if isinstance(event, Token)]
        answer.note(monotonic(), len(tokens))
    assert tokens == expected_mock_tokens(prompt, num_tokens), "a token is wrong"


async def talk(stack: Stack, number: int, end: float, into: list[Answer]) -> None:
    turn = 0
    while monotonic() < end:
        prompt = tuple((number * 31 + turn * 7 + i) % 256 for i in range(SHORT_PROMPT))
        await ask(stack, f"short{number}.{turn}", prompt, SHORT_TOKENS, into)
        turn += 1


async def arrive(stack: Stack, interval: float, end: float, into: list[Answer]) -> None:
    async with asyncio.TaskGroup() as tasks:
        turn = 0
        while monotonic() < end:
            await asyncio.sleep(interval)
            prompt = tuple((turn * 13 + i) % 256 for i in range(LONG_PROMPT))
            tasks.create_task(ask(stack, f"long{turn}", prompt, LONG_TOKENS, into))
            turn += 1


async def run_arm(
    num_prefill: int, num_decode: int, batching: str, args: argparse.Namespace
) -> tuple[list[Answer], list[Answer], float]:
    device = f"mock:h100x{args.dilation}"
    short: list[Answer] = []
    long: list[Answer] = []
    async with running_stack(
        num_prefill,
        num_decode,
        "--prefix-caching=off",  # After a while prompts come again.
        devices=[device],
        batching=batching if num_prefill == 0 else "chunked",
        local_prefill="auto" if batching == "local" else "off",
    ) as stack:
        start = monotonic()
        end = start + args.seconds * args.dilation
        await asyncio.gather(
            *(talk(stack, number, end, short) for number in range(NUM_SHORT)),
            arrive(stack, args.interval * args.dilation, end, long),
        )
        return short, long, monotonic() - start


async def measure(
    num_prefill: int, num_decode: int, batching: str, args: argparse.Namespace
) -> Together:
    short, long, seconds = await run_arm(num_prefill, num_decode, batching, args)

    def ms(times_s: Sequence[float], percent: float) -> float:
        return 1e3 * float(percentiles(times_s, (percent,))[0]) / args.dilation

    itl_s = [latency_s for each in short for latency_s in each.itl_s()]
    long_ttft_s = [each.ttft_s() for each in long]
    return Together(
        serving=f"{num_prefill}p{num_decode}d {batching}".strip() if num_prefill else batching,
        engines=num_prefill + num_decode,
        short_tokens_per_s=sum(each.num_tokens for each in short) / seconds * args.dilation,
        short_itl_ms=(ms(itl_s, 50), ms(itl_s, 99), ms(itl_s, 100)),
        short_ttft_p99_ms=ms([each.ttft_s() for each in short], 99),
        long_ttft_ms=(ms(long_ttft_s, 50), ms(long_ttft_s, 100)),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--interval", type=float, default=0.3)
    parser.add_argument("--dilation", type=int, default=5)
    add_keep(parser)
    args = parser.parse_args()
    silence_logs()
    load = f"{NUM_SHORT} short streams; {LONG_PROMPT:,} tokens every {args.interval} s"
    notes = Notes(args, this_machine(), f"mock H100s; {load}")
    notes.table(COLOCATED, (asyncio.run(measure(*arm, args)) for arm in ARMS))


if __name__ == "__main__":
    main()
