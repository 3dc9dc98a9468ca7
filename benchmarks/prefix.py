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
from collections.abc import Callable, Sequence
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


class Users:
    """Who ask with a system prompt that all share, or with one each."""

    def __init__(self, stack: Stack, is_mock: bool, count: int) -> None:
        self._stack = stack
        self._is_mock = is_mock
        self._count = count
        self._prompts = Prompts(is_mock)
        self._system = self._prompts.tokens(SYSTEM_TOKENS)

    async def warm_up(self) -> None:
        for system in (None, self._system):
            await self._ask(f"warm{system is None}", self._prompts.asked(system))
            await self._stack.until_all_free()

    async def alone(self) -> dict[bool, list[Asked]]:
        """One after the other, with the shared prompt and without."""
        found: dict[bool, list[Asked]] = {True: [], False: []}
        for user in range(self._count):
            for shared in (True, False) if user % 2 else (False, True):
                prompt = self._prompts.asked(self._system if shared else None)
                found[shared].append(await self._ask(f"alone{user}{shared}", prompt))
                await self._stack.until_all_free()
        return found

    async def together(self, shared: bool) -> tuple[list[Asked], HeldBlocks]:
        """All at once, and what is held when they ask once more."""
        systems = [
            self._system if shared else self._prompts.tokens(SYSTEM_TOKENS)
            for _ in range(self._count)
        ]
        first, again = ([self._prompts.asked(each) for each in systems] for _ in range(2))
        asked, _ = await self._ask_all(f"first{shared}", first)
        _, held = await self._ask_all(f"again{shared}", again)
        return asked, held

    async def _ask(self, name: str, prompt: Prompt) -> Asked:
        start = monotonic()
        stream = self._stack.submit(name, prompt, ANSWER_TOKENS)
        events = list(await upcoming(stream))
        first_s = monotonic() - start
        while not isinstance(events[-1], Ended):
            events += await upcoming(stream)
        *tokens, ended = events
        if self._is_mock:
            expected = expected_mock_tokens(prompt, ANSWER_TOKENS)
            assert [token.token_id for token in tokens] == expected, "a token is wrong"
        return Asked(first_s, ended.served_by.kv_bytes)

    async def _ask_all(
        self, name: str, prompts: Sequence[Prompt]
    ) -> tuple[list[Asked], HeldBlocks]:
        held, news = HeldBlocks(self._stack), self._stack.dispatcher.news
        asking = asyncio.gather(
            *(self._ask(f"{name}{i}", prompt) for i, prompt in enumerate(prompts))
        )
        while not asking.done():
            news.clear()
            heard = asyncio.ensure_future(news.wait())
            await asyncio.wait({asking, heard}, return_when=asyncio.FIRST_COMPLETED)
            heard.cancel()
            held.look()
        await self._stack.until_all_free()
        return asking.result(), held


async def measure(device: str, num_users: int) -> Shared:
    is_mock = device.startswith("mock")
    cores = sorted(os.sched_getaffinity(0))
    devices = [device] if device != "cpu" else [f"cpu:{cores[0]}", f"cpu:{cores[-1]}"]
    model = "mock" if is_mock else "default"
    async with running_stack(1, 1, model=model, devices=devices) as stack:
        users = Users(stack, is_mock, num_users)
        await users.warm_up()
        alone = await users.alone()
        together = {shared: await users.together(shared) for shared in (False, True)}

    def ratio(of: Callable[[bool], float]) -> float:
        return of(True) / of(False)

    def first_s(asked: Sequence[Asked]) -> float:
        return statistics.median(each.first_s for each in asked)

    return Shared(
        device,
        num_users,
        ttft_alone=ratio(lambda shared: first_s(alone[shared])),
        ttft_together=ratio(lambda shared: first_s(together[shared][0])),
        blocks=ratio(lambda shared: together[shared][1].of("")),
        prefill_blocks=ratio(lambda shared: together[shared][1].of("prefill")),
        decode_blocks=ratio(lambda shared: together[shared][1].of("decode")),
        kv_bytes=ratio(lambda shared: sum(each.kv_bytes for each in together[shared][0])),
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
