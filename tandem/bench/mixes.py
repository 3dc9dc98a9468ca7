"""Mixes of requests for open loops: endless, and the same for the same seed.

Prompts are token ids, so that their lengths are exact. Where a source gives a mean and no shape,
lengths are log-normal with a stated spread.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from tandem.bench.lengths import Lengths, UniformLengths
from tandem.bench.workload import Prompt


class Mix(Protocol):
    """Where an open loop's requests come from."""

    def prompts(self, rng: random.Random, token_ids: Sequence[int]) -> Iterator[Prompt]:
        """Endless, of random tokens out of `token_ids`."""
        ...

    def scaled(self, factor: float) -> Mix:
        """With all lengths as much longer or shorter."""
        ...


@dataclass(frozen=True, slots=True)
class Unrelated:
    """Prompts of which no two begin alike, so that no cache of prefixes helps."""

    prompt: Lengths | UniformLengths
    output: Lengths | UniformLengths

    def prompts(self, rng: random.Random, token_ids: Sequence[int]) -> Iterator[Prompt]:
        while True:
            ids = rng.choices(token_ids, k=self.prompt.draw(rng))
            yield Prompt(tuple(ids), self.output.draw(rng))

    def scaled(self, factor: float) -> Unrelated:
        return Unrelated(self.prompt.scaled(factor), self.output.scaled(factor))


@dataclass(frozen=True, slots=True)
class SharedPrefixes:
    """Prompts of another mix behind one of a few system prompts."""

    num_prefixes: int
    prefix: Lengths
    rest: Mix

    def prompts(self, rng: random.Random, token_ids: Sequence[int]) -> Iterator[Prompt]:
        prefixes = [
            tuple(rng.choices(token_ids, k=self.prefix.draw(rng))) for _ in range(self.num_prefixes)
        ]
        for prompt in self.rest.prompts(rng, token_ids):
            yield Prompt((*rng.choice(prefixes), *prompt.token_ids), prompt.num_output)

    def scaled(self, factor: float) -> SharedPrefixes:
        return SharedPrefixes(
            self.num_prefixes, self.prefix.scaled(factor), self.rest.scaled(factor)
        )


@dataclass(frozen=True, slots=True)
class Tenants:
    """Several mixes side by side: each one's name, and its share of the requests."""

    shares: tuple[tuple[str, float, Mix], ...]

    def prompts(self, rng: random.Random, token_ids: Sequence[int]) -> Iterator[Prompt]:
        tenants = [(name, mix.prompts(rng, token_ids)) for name, _, mix in self.shares]
        weights = [share for _, share, _ in self.shares]
        while True:
            name, prompts = rng.choices(tenants, weights)[0]
            yield replace(next(prompts), tenant=name)

    def scaled(self, factor: float) -> Tenants:
        return Tenants(tuple((name, share, mix.scaled(factor)) for name, share, mix in self.shares))


@dataclass(frozen=True, slots=True)
class Conversations:
    """Turns of conversations of which `num_live` are under way at a time: each prompt is all that
    was said so far, and something new.

    It is a trace: what was answered before is as long as was asked for, but is the trace's own
    tokens, and the next turn comes when it comes, whether or not the last one was answered. So the
    load does not depend on the server.
    """

    num_live: int
    num_turns: Lengths
    message: Lengths
    output: Lengths

    def prompts(self, rng: random.Random, token_ids: Sequence[int]) -> Iterator[Prompt]:
        live = [self._conversation(rng, token_ids) for _ in range(self.num_live)]
        while True:
            number = rng.randrange(self.num_live)
            prompt = next(live[number], None)
            if prompt is None:
                live[number] = self._conversation(rng, token_ids)
            else:
                yield prompt

    def _conversation(self, rng: random.Random, token_ids: Sequence[int]) -> Iterator[Prompt]:
        said: list[int] = []
        for _ in range(self.num_turns.draw(rng)):
            said += rng.choices(token_ids, k=self.message.draw(rng))
            prompt = Prompt(tuple(said), self.output.draw(rng))
            yield prompt
            said += rng.choices(token_ids, k=prompt.num_output)

    def scaled(self, factor: float) -> Conversations:
        return Conversations(
            self.num_live, self.num_turns, self.message.scaled(factor), self.output.scaled(factor)
        )


# ShareGPT as the vLLM paper has it (Kwon et al., SOSP 2023, figure 11): 161.31 tokens in, 337.99
# out on average; spread stated.
CHAT = Unrelated(Lengths.of_mean(161.31, 1.0, 4, 1024), Lengths.of_mean(337.99, 0.8, 4, 1024))

# LongBench as the DistServe paper has it (Zhong et al., OSDI 2024, figure 7): 1738.3 in, 90.7 out
# on average, 19 to 1; spreads stated.
LONG_PROMPTS = Unrelated(
    Lengths.of_mean(1738.3, 0.4, 256, 4096), Lengths.of_mean(90.7, 0.4, 16, 256)
)

# Azure's production traces of 2023 as the Splitwise paper has them (Patel et al., ISCA 2024,
# section III): medians of 1,500 in and 13 out for code, 1,020 in and 129 out for conversation;
# spreads stated.
CODE = Unrelated(Lengths(1500, 0.6, 16, 6144), Lengths(13, 0.8, 2, 256))
CONVERSATION = Unrelated(Lengths(1020, 0.8, 16, 4096), Lengths(129, 0.8, 4, 1024))

# What has no source is stated: numbers of prefixes, of conversations and of turns, and the shares.
MIXES: dict[str, Mix] = {
    "chat": CHAT,
    "long-prompts": LONG_PROMPTS,
    "shared-prefix": SharedPrefixes(4, Lengths(1024), CHAT),
    "tenants": Tenants(
        (
            ("chat", 0.4, CHAT),
            ("conversation", 0.3, CONVERSATION),
            ("code", 0.2, CODE),
            ("long-prompts", 0.1, LONG_PROMPTS),
        )
    ),
    "conversations": Conversations(
        24, Lengths(5, 0.5, 2, 16), Lengths.of_mean(161.31, 1.0, 4, 512), Lengths(129, 0.8, 4, 512)
    ),
}


def tenants_of(mix: Mix) -> Sequence[str]:
    """The names of those that a mix has side by side; an empty one if they are all alike."""
    return [name for name, _, _ in mix.shares] if isinstance(mix, Tenants) else [""]


def mix_prompts(
    mix: Mix, seed: int, token_ids: Iterable[int], variant: object = ""
) -> Iterator[Prompt]:
    """A mix's requests for a seed. Those of another variant have the same lengths and share their
    beginnings in the same way, but have other tokens: a server knows none of them from before."""
    ids = list(token_ids)
    random.Random(f"tokens {seed} {variant}").shuffle(ids)
    return mix.prompts(random.Random(f"prompts {seed}"), ids)
