"""What is asked of a server: how many streams, of what lengths, at what pace."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count, takewhile

# Common to the vocabularies of all models that are likely here; below are special tokens and bytes.
TOKEN_IDS = range(1000, 30_000)
MOCK_TOKEN_IDS = range(256)


@dataclass(frozen=True, slots=True)
class Prompt:
    """One request: token ids, and how many tokens to generate. If there is a `text`, that is sent
    instead: what the ids say, or as good as that where nobody here knows its tokens. `tenant` names
    those that are alike, where a mix has several kinds."""

    token_ids: tuple[int, ...]
    num_output: int
    text: str = ""
    tenant: str = ""


@dataclass(frozen=True, slots=True)
class LongPrompts:
    """Prompts that arrive at a fixed pace, whether or not the server keeps up."""

    num_prompt: int
    num_output: int
    interval_s: float

    def times_s(self, until_s: float) -> Iterator[float]:
        """When they come, before `until_s`: the first after half an interval."""
        # Each by itself: added up, rounding would say how many there are.
        times_s = ((number + 0.5) * self.interval_s for number in count())
        return takewhile(lambda at_s: at_s < until_s, times_s)


@dataclass(frozen=True, slots=True)
class Workload:
    """`concurrency` streams at a time, each followed by the next one at once: `num_requests` in
    all, or as many as there are in `seconds`."""

    name: str
    num_prompt: int
    num_output: int
    concurrency: int
    num_requests: int = 0
    seconds: float = 0.0
    long: LongPrompts | None = None
    token_ids: range = TOKEN_IDS

    def __str__(self) -> str:
        text = f"{self.num_prompt} in, {self.num_output} out, {self.concurrency} at a time"
        if self.long:
            text += f"; {self.long.num_prompt} tokens every {self.long.interval_s:g} s"
        return text

    def scaled(self, factor: float) -> Workload:
        """As much longer or shorter, in whole rounds of all streams, and in whole intervals."""
        rounds = max(1, round(self.num_requests * factor / self.concurrency))
        interval_s = self.long.interval_s if self.long else 1.0
        return replace(
            self,
            num_requests=rounds * self.concurrency if self.num_requests else 0,
            seconds=interval_s * max(1, round(self.seconds * factor / interval_s))
            if self.seconds
            else 0.0,
        )

    def warm_up(self) -> Workload:
        """One round of everything, briefly."""
        return replace(
            self,
            num_output=min(self.num_output, 16),
            num_requests=self.concurrency,
            seconds=0.0,
            long=None,
        )

    def prompts(self, seed: int) -> Iterator[Prompt]:
        """Endless and random, so that no two begin alike and no cache of prefixes helps."""
        return self._random(f"{self.name} {seed}", self.num_prompt, self.num_output)

    def long_prompts(self, seed: int) -> Iterator[Prompt]:
        """The same of those that arrive at a pace; none if there are none."""
        if self.long is None:
            return iter(())
        return self._random(f"{self.name} long {seed}", self.long.num_prompt, self.long.num_output)

    def _random(self, seed: str, num_prompt: int, num_output: int) -> Iterator[Prompt]:
        rng = random.Random(seed)
        while True:
            yield Prompt(tuple(rng.choices(self.token_ids, k=num_prompt)), num_output)


WORKLOADS = {
    each.name: each
    for each in (
        Workload("A", 512, 64, concurrency=8, num_requests=32),
        Workload("B", 64, 128, concurrency=16, num_requests=32),
        Workload("C", 128, 64, concurrency=1, num_requests=6),
        Workload("D", 32, 128, concurrency=8, seconds=24.0, long=LongPrompts(2048, 16, 3.0)),
    )
}
