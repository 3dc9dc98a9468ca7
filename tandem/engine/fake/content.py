"""What the fake engine computes: KV from tokens, tokens from KV. Pure functions of their arguments.

*KV.* The item of a token at `position`, in `layer`, `plane` (0 keys, 1 values) and `lane` is

    (token * 40503 + position * 30011 + layer * 7919 + plane * 4099 + lane * 521) mod 65521

so tokens that are 65521 apart have the same KV.

*Token.* The digest of a sequence of `end` tokens is the sum, modulo 2**64, of item * weight over
every item of positions [0, end). Four lanes share a weight, which is shifted to their place:

    counter = ((position * 2 + plane) * 4 + layer) * 2 + lane // 4
    weight  = (mix((counter + 1) * GOLDEN) | 1) << 16 * (lane % 4)

with `mix` and `GOLDEN` of `tandem.core.noise`. The next token, for position `end`, is

    candidates[mix(digest ^ key) mod len(candidates)]

where `key` is 0 if greedy, else `noise.position_key(seed, choice_index, end)`. The candidates are
all tokens of the engine's output range, without those that `min_tokens` bars or `logit_bias`
forbids (-100); with a grammar, those that it allows (see `candidates`). What only makes tokens more
or less likely has no effect: penalties, other biases, top-k, top-p, min-p.

Why it notices: weights are odd, so a change of any one item changes the digest; and they are
pseudo-random in the logical position, so no swap, shift or repetition of blocks cancels out. The
sum is what lets a prefix be digested once (`verify="incremental"`).

>>> int(items([9], [1])[1, 2, 0, 0, 3])  # (9*40503 + 30011 + 2*7919 + 4099 + 3*521) mod 65521
22912
>>> hex(int(weights(0, 1)[0, 0, 0]))  # position 0, keys, layer 0, lanes 0 to 3
'0xe220a8397b1dcdaf'
>>> hex(digest([5, 9]))
'0x25d90cf351037186'
>>> greedy = SamplingParams(max_tokens=3, seed=0, temperature=0.0)
>>> expected_tokens([5, 9], greedy, 3, output_token_ids=(100, 1100))
[234, 989, 678]
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tandem.artifacts.grammars import GrammarCompiler
from tandem.core import noise
from tandem.core.kv import KVLayout, Plane
from tandem.core.sampling_params import SamplingParams
from tandem.engine.allowed_tokens import Allowed, barred_tokens
from tandem.engine.fake.candidates import candidates

NUM_PLANES = len(Plane)
NUM_LAYERS = 4
NUM_LANES = 8
WORDS = NUM_LANES // 4
"""Words of a token in one plane of one layer: four uint16 items are one uint64."""

MODULUS = 65521
TOKEN, POSITION, LAYER, PLANE, LANE = 40503, 30011, 7919, 4099, 521

Words = NDArray[np.uint64]


def fake_layout(block_size: int) -> KVLayout:
    """The geometry of every fake engine. It stands for the model's, and does not depend on it."""
    return KVLayout(NUM_LAYERS, 1, NUM_LANES, block_size, "uint16")


def items(token_ids: ArrayLike, positions: ArrayLike) -> NDArray[np.uint16]:
    """KV of n tokens: `[2 planes, layers, n, 1 head, head_dim]`."""
    tokens = np.asarray(token_ids, np.int64) * TOKEN + np.asarray(positions, np.int64) * POSITION
    total = (tokens % MODULUS).astype(np.uint32)[:, None, None] + _PLACES
    # Both terms are below the modulus, so it is taken off at most once; where it must not be, the
    # difference wraps round to a large number. (An integer division is ten times as slow.)
    remainder: NDArray[np.uint32] = np.minimum(total, total - np.uint32(MODULUS))
    return remainder.astype(np.uint16)


def _places() -> NDArray[np.uint32]:
    """The part of an item that neither token nor position changes, as `[planes, layers, 1, 1,
    lanes]`."""
    planes, layers, lanes = np.ogrid[:NUM_PLANES, :NUM_LAYERS, :NUM_LANES]
    places: NDArray[np.int64] = (planes * PLANE + layers * LAYER + lanes * LANE) % MODULUS
    return places.astype(np.uint32)[:, :, None, None, :]


_PLACES = _places()


def as_words(kv: NDArray[np.uint16]) -> Words:
    """View C-ordered `[2 planes, layers, ..., head_dim]` as `[planes * layers, n, WORDS]`."""
    return kv.view(np.uint64).reshape(NUM_PLANES * NUM_LAYERS, -1, WORDS)


def weights(begin: int, end: int) -> Words:
    """Weights of positions [begin, end), as `[planes * layers, end - begin, WORDS]`."""
    place, position, word = np.ogrid[: NUM_PLANES * NUM_LAYERS, begin:end, :WORDS]
    counter = (position * NUM_PLANES * NUM_LAYERS + place) * WORDS + word
    value = (counter.astype(np.uint64) + np.uint64(1)) * np.uint64(noise.GOLDEN)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(noise.MIX_1)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(noise.MIX_2)
    return (value ^ (value >> np.uint64(31))) | np.uint64(1)


def digest(token_ids: Sequence[int], start: int = 0) -> int:
    """The digest of tokens at positions `[start, start + len(token_ids))`, if their KV is right."""
    end = start + len(token_ids)
    kv = as_words(items(token_ids, np.arange(start, end)))
    return int((kv * weights(start, end)).sum(dtype=np.uint64))


def choose_token(
    digest: int,
    params: SamplingParams,
    choice_index: int,
    position: int,
    candidates: Sequence[int],
) -> int:
    """The token for `position`, one of `candidates`, given the digest of all positions before
    it."""
    key = 0
    if params.temperature > 0:
        key = noise.position_key(params.seed, choice_index, position)
    return candidates[noise.mix(digest ^ key) % len(candidates)]


def expected_tokens(
    prompt: Sequence[int],
    params: SamplingParams,
    num_tokens: int,
    *,
    output_token_ids: tuple[int, int],
    choice_index: int = 0,
    eos_token_ids: frozenset[int] = frozenset(),
    compiler: GrammarCompiler | None = None,
) -> list[int]:
    """The first `num_tokens` tokens that any fake engine gives after `prompt`, if no KV is lost.

    Whether one of them ends the sequence is the worker's business, not looked at here. The model's
    `eos_token_ids` matter with `min_tokens` or a grammar, its `compiler` with a grammar.
    """
    total = digest(prompt)
    matcher = compiler.matcher(params.grammar) if compiler and params.grammar else None
    tokens: list[int] = []
    for position in range(len(prompt), len(prompt) + num_tokens):
        barred = barred_tokens(params, len(tokens), eos_token_ids)
        allowed = Allowed(matcher.mask() if matcher else None, barred)
        chosen_from = candidates(output_token_ids, params, allowed, eos_token_ids)
        tokens.append(choose_token(total, params, choice_index, position, chosen_from))
        total = (total + digest(tokens[-1:], position)) & noise.MASK
        if matcher:
            matcher.advance(tokens[-1:])
    return tokens
