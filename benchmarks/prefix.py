"""What a shared system prompt costs: the wait for the first token, and KV memory.

Sixteen users have a system prompt of 1,000 tokens each, and ask something of 24 tokens. *Unshared*:
every user's system prompt is another. *Shared*: it is the same, and was computed before. First the
users ask one after the other, in interleaved pairs; then all at once, once each way. Shown are
ratios of one run, shared / unshared: of the times to the first token, and of the blocks that are
held at the most. These are looked at when all ask once more, something else: unshared prompts are
cached by then as well, so that all are held at a time, however slowly they were computed. One
prefill and one decode worker; on mock GPUs every token is checked.

    .venv/bin/python benchmarks/prefix.py [--device cpu mock:h100x5] [--users 16] [--keep]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from performance.fleet_tables import PREFIXES, Shared
from performance.notes import Notes, add_keep
from performance.record import this_machine
from stack import Stack, expected_mock_tokens, running_stack, silence_logs, upcoming

from gateway.tokens import Ended

SYSTEM_TOKENS, QUESTION_TOKENS, ANSWER_TOKENS = 1000, 24, 32

Prompt = tuple[int, ...]


@dataclass
class Prompts:
    """Random ones; tokens of the mock model, or of any larger one."""

    is_mock: bool
    rng: random.Random = field(default_factory=lambda: random.Random(0))

    def tokens(self, count: int) -> Prompt:
        low, high = (0, 256) if self.is_mock else (1000, 40000)
        return tuple(self.rng.randrange(low, high) for _ in range(count))

    def asked(self, system: Prompt | None) -> Prompt:
        """A question behind a system prompt, or behind one that nobody else has."""
        return (*(system or self.tokens(SYSTEM_TOKENS)), *self.tokens(QUESTION_TOKENS))


@dataclass(frozen=True)
class Asked:
    """What became of one request."""

    first_s: float
    kv_bytes: int


async def ask(stack: Stack, name: str, prompt: Prompt, is_mock: bool) -> Asked:
    start = monotonic()
    stream = stack.submit(name, prompt, ANSWER_TOKENS)
    events = list(await upcoming(stream))
    first_s = monotonic() - start
    while not isinstance(events[-1], Ended):
        events += await upcoming(stream)
    *tokens, ended = events
    if is_mock:
        expected = expected_mock_tokens(prompt, ANSWER_TOKENS)
        assert [token.token_id for token in tokens] == expected, "a token is wrong"
    return Asked(first_s, ended.served_by.kv_bytes)


class HeldBlocks:
    """The most blocks that each worker was seen to hold."""

    def __init__(self, stack: Stack) -> None:
        self._recorder = stack.dispatcher
        self.most: dict[str, int] = {}

    def look(self) -> None:
        for worker, num_free in self._recorder.num_free.items():
            num_held = self._recorder.num_blocks[worker] - num_free
            self.most[worker] = max(self.most.get(worker, 0), num_held)

    def of(self, role: str) -> int:
        return sum(count for worker, count in self.most.items() if worker.startswith(role))


async def ask_all(
    stack: Stack, name: str, prompts: Sequence[Prompt], is_mock: bool
) -> tuple[list[Asked], HeldBlocks]:
    """All at once."""
    held = HeldBlocks(stack)
    asking = asyncio.gather(
        *(ask(stack, f"{name}{i}", prompt, is_mock) for i, prompt in enumerate(prompts))
    )
    while not asking.done():
        stack.dispatcher.news.clear()
        news = asyncio.ensure_future(stack.dispatcher.news.wait())
        await asyncio.wait({asking, news}, return_when=asyncio.FIRST_COMPLETED)
        news.cancel()
        held.look()
    await stack.until_all_free()
    return asking.result(), held


async def measure(device: str, num_users: int) -> Shared:
    is_mock = device.startswith("mock")
    cores = sorted(os.sched_getaffinity(0))
    devices = [device] if device != "cpu" else [f"cpu:{cores[0]}", f"cpu:{cores[-1]}"]
    prompts = Prompts(is_mock)
    system = prompts.tokens(SYSTEM_TOKENS)
    async with running_stack(
        1, 1, model="mock" if is_mock else "default", devices=devices
    ) as stack:
        for warm_up in (None, system):
            await ask(stack, f"warm{warm_up is None}", prompts.asked(warm_up), is_mock)
            await stack.until_all_free()
        alone: dict[bool, list[float]] = {True: [], False: []}
        for user in range(num_users):
            for shared in (True, False) if user % 2 else (False, True):
                prompt = prompts.asked(system if shared else None)
                asked = await ask(stack, f"alone{user}{shared}", prompt, is_mock)
                alone[shared].append(asked.first_s)
                await stack.until_all_free()
        together, blocks = {}, {}
        for shared in (False, True):
            systems = [
                system if shared else prompts.tokens(SYSTEM_TOKENS) for _ in range(num_users)
            ]
            first, again = ([prompts.asked(each) for each in systems] for _ in range(2))
            together[shared], _ = await ask_all(stack, f"first{shared}", first, is_mock)
            _, blocks[shared] = await ask_all(stack, f"again{shared}", again, is_mock)

    def ratio(kind: str) -> float:
        of = statistics.median if kind == "first_s" else sum
        return of(getattr(each, kind) for each in together[True]) / of(
            getattr(each, kind) for each in together[False]
        )

    def held(role: str) -> float:
        return blocks[True].of(role) / blocks[False].of(role)

    return Shared(
        device,
        num_users,
        ttft_alone=statistics.median(alone[True]) / statistics.median(alone[False]),
        ttft_together=ratio("first_s"),
        blocks=held(""),
        prefill_blocks=held("prefill"),
        decode_blocks=held("decode"),
        kv_bytes=ratio("kv_bytes"),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", nargs="+", default=["cpu", "mock:h100x5"])
    parser.add_argument("--users", type=int, default=16)
    add_keep(parser)
    args = parser.parse_args()
    silence_logs()
    asked = f"{SYSTEM_TOKENS:,} tokens shared, {QUESTION_TOKENS} asked, {ANSWER_TOKENS} answered"
    notes = Notes(args, this_machine(), f"1p1d; {asked}; shared / unshared")
    notes.table(PREFIXES, (asyncio.run(measure(each, args.users)) for each in args.device))


if __name__ == "__main__":
    main()
