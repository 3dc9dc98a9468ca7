"""The real model through real processes: the same bits in every topology, the reference's tokens.

Tiers (b) and (c) of docs/architecture.md, "Determinism". A few prompts here; the full matrix is
`slow`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from reference import Reference
from stack import Stack, collect, events_of, running_stack

from gateway.tokens import Token
from tandem.artifacts.resolve import resolve
from tandem.core.logprobs import TokenLogprobs

pytestmark = [pytest.mark.model, pytest.mark.timeout(600)]

# In the full matrix, and in the few of each run.
NUM_TOKENS, SOME_TOKENS = 64, 32
# Prefill workers, decode workers, and the policy where there are decode workers alone; "local" if
# these compute what they are sooner with.
Setup = tuple[int, int, str]
DISAGGREGATED: tuple[Setup, ...] = ((1, 1, ""), (1, 2, ""), (2, 1, ""), (1, 1, "local"))
COLOCATED: tuple[Setup, ...] = ((0, 1, "chunked"), (0, 1, "prefill-first"), (0, 2, "decode-first"))
# The reference's top two logits may be closer than two float32 computations agree.
TIE_GAP = 1e-3


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference(resolve("default").path)


def prompts_of(lengths: Sequence[int], chats: Sequence[str]) -> list[tuple[int, ...]]:
    """Raw prompts of exactly these lengths, and chat prompts."""
    tokenizer = resolve("default").tokenizer()
    text = (Path(__file__).parents[2] / "LICENSE").read_text()
    token_ids = tokenizer.encode(text)
    raw = [tuple(token_ids[i : i + length]) for i, length in enumerate(lengths)]
    assert [len(each) for each in raw] == list(lengths)
    rendered = [
        tokenizer.apply_chat_template([{"role": "user", "content": each}]) for each in chats
    ]
    return raw + [tuple(tokenizer.encode(each)) for each in rendered]


SOME_PROMPTS = ((1, 2, 17, 100, 333, 700), ("Write a haiku about rivers.", "What is a prime?"))
ALL_PROMPTS = (
    (1, 2, 3, 15, 16, 17, 31, 33, 64, 100, 129, 255, 511, 600, 1024, 1500, 2000),
    (
        "Write a haiku about rivers.",
        "What is a prime?",
        "Explain how a bicycle stays upright.",
        "List three uses of salt.",
        "Translate 'good morning' into French.",
        "Why is the sky blue?",
        "Who wrote Hamlet?",
    ),
)


def stack_of(setup: Setup, *flags: str) -> AbstractAsyncContextManager[Stack]:
    num_prefill, num_decode, batching = setup
    return running_stack(
        num_prefill,
        num_decode,
        *flags,
        model="default",
        devices=["cpu:0", "cpu:1"] if num_prefill + num_decode > 1 else ["cpu:0-1"],
        batching=batching if num_prefill == 0 else "chunked",
        prefill_token_budget=100,
        local_prefill="auto" if batching == "local" else "off",
    )


async def generate(
    setup: Setup,
    prompts: Sequence[tuple[int, ...]],
    logits_folder: Path,
    *flags: str,
    together: bool = True,
    num_tokens: int = SOME_TOKENS,
    **params: float,
) -> tuple[list[list[int]], list[list[NDArray[np.float32]]]]:
    """Tokens, and for the first three prompts the logits that they were chosen from."""
    async with stack_of(setup, f"--dump-logits={logits_folder}", *flags) as stack:
        tokens: list[list[int]] = []
        streams = []
        for i, prompt in enumerate(prompts):
            streams.append(stack.submit(f"p{i}", prompt, num_tokens, **params))
            if not together:
                tokens.append((await collect(streams[-1]))[0])
        if together:
            tokens = [(await collect(stream))[0] for stream in streams]
        await stack.until_all_free()
    logits = [
        [
            np.load(logits_folder / f"{stream.generation.sequence_id}-{len(prompt) + i}.npy")
            for i in range(num_tokens)
        ]
        for stream, prompt in list(zip(streams, prompts, strict=True))[:3]
    ]
    return tokens, logits


def count_ties(reference: Reference, prompt: Sequence[int], tokens: Sequence[int]) -> int:
    """Tokens that are not the reference's, each at a tie of the reference's own; asserts that."""
    logits = reference.logits(prompt, tokens)
    ties = 0
    for row, token in zip(logits, tokens, strict=True):
        best, second = np.partition(row, -2)[[-1, -2]]
        if int(row.argmax()) != token:
            assert best - second < TIE_GAP, f"not the reference's token, gap {best - second}"
            assert row[token] == second
            ties += 1
    return ties


async def check(
    prompts: Sequence[tuple[int, ...]],
    reference: Reference,
    folder: Path,
    together: bool,
    num_tokens: int,
) -> None:
    runs = []
    for setup in (*DISAGGREGATED, *COLOCATED):
        logits_folder = folder / f"{setup}-{together}"
        runs.append(
            await generate(
                setup,
                prompts,
                logits_folder,
                "--dtype=float32",
                together=together,
                num_tokens=num_tokens,
            )
        )
    (first_tokens, first_logits), *others = runs
    for tokens, logits in others:
        assert tokens == first_tokens
        for mine, theirs in zip(logits, first_logits, strict=True):
            assert all(map(np.array_equal, mine, theirs))
    ties = sum(
        count_ties(reference, prompt, tokens)
        for prompt, tokens in zip(prompts, first_tokens, strict=True)
    )
    print(f"{len(prompts)} prompts x {num_tokens} tokens: {ties} at a tie of the reference's")


async def test_same_bits_in_every_topology_and_the_reference_tokens(
    reference: Reference, tmp_path: Path
) -> None:
    prompts = prompts_of(*SOME_PROMPTS)
    await check(prompts, reference, tmp_path, together=True, num_tokens=SOME_TOKENS)


async def test_generate_says_the_same(reference: Reference, tmp_path: Path) -> None:
    """Against `generate` itself, not a forced pass over our tokens."""
    prompts = prompts_of((40,), ("What is a prime?",))
    tokens, _ = await generate((1, 1, ""), [*prompts, prompts[0]], tmp_path, "--dtype=float32")
    for prompt, ours in zip(prompts, tokens, strict=False):
        theirs = reference.generate(prompt, SOME_TOKENS)
        assert ours == theirs or count_ties(reference, prompt, ours) > 0


async def score(setup: Setup, prompts: Sequence[tuple[int, ...]]) -> list[list[TokenLogprobs]]:
    """What is told of the prompts' tokens but the first."""
    async with stack_of(setup, "--dtype=float32") as stack:
        streams = [
            stack.submit(f"p{i}", prompt, 2, prompt_logprobs=3) for i, prompt in enumerate(prompts)
        ]
        answers = [await events_of(stream) for stream in streams]
        await stack.until_all_free()
    return [
        [each.logprobs for each in answer if isinstance(each, Token) and each.logprobs]
        for answer in answers
    ]


async def test_prompts_are_as_likely_in_every_topology_as_the_reference_says(
    reference: Reference,
) -> None:
    prompts = prompts_of((2, 17, 333), ("What is a prime?",))
    setups = DISAGGREGATED[0], DISAGGREGATED[-1], COLOCATED[0]
    first, *others = [await score(setup, prompts) for setup in setups]
    assert others == [first, first]
    for prompt, scored in zip(prompts, first, strict=True):
        logits = reference.logits(prompt[:1], prompt[1:]).astype(np.float64)
        logprobs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        own = logprobs[np.arange(len(scored)), prompt[1:]]
        assert [each.logprob for each in scored] == pytest.approx(own.tolist(), abs=1e-3)
        best = np.sort(logprobs, axis=1)[:, :-4:-1]
        assert [each.top_logprobs.tolist() for each in scored] == [
            pytest.approx(each.tolist(), abs=1e-3) for each in best
        ]


@pytest.mark.slow
async def test_seeded_sampling_is_the_same_in_every_topology(tmp_path: Path) -> None:
    prompts = prompts_of((5, 60, 300), ("Tell me a story.",))
    runs = [
        await generate(
            setup,
            prompts,
            tmp_path / str(setup),
            "--dtype=float32",
            temperature=0.8,
            top_p=0.95,
            top_k=50,
            seed=11,
        )
        for setup in (DISAGGREGATED[0], DISAGGREGATED[1], COLOCATED[0])
    ]
    assert runs[0][0] == runs[1][0] == runs[2][0]


@pytest.mark.slow
async def test_kv_in_int8_is_the_same_in_every_topology(tmp_path: Path) -> None:
    """What is sent is what a colocated worker reads: int8 and their scales."""
    prompts = prompts_of((5, 60, 600), ("Tell me a story.",))
    runs = [
        await generate(setup, prompts, tmp_path / str(setup), "--kv-cache-dtype=int8")
        for setup in (DISAGGREGATED[0], COLOCATED[0])
    ]
    assert runs[0][0] == runs[1][0]
    for mine, theirs in zip(runs[0][1], runs[1][1], strict=True):
        assert all(map(np.array_equal, mine, theirs))


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("together", [True, False])
async def test_the_full_matrix(reference: Reference, tmp_path: Path, together: bool) -> None:
    prompts = prompts_of(*ALL_PROMPTS)
    for start in range(0, len(prompts), 16):
        some, folder = prompts[start : start + 16], tmp_path / str(start)
        await check(some, reference, folder, together, NUM_TOKENS)


@pytest.mark.slow
@pytest.mark.timeout(3600)
async def test_bfloat16_agrees_mostly(reference: Reference, tmp_path: Path) -> None:
    """How often bfloat16 takes the token that the float32 reference takes after the same tokens."""
    prompts = prompts_of(*ALL_PROMPTS)
    tokens, _ = await generate(
        (1, 1, ""), prompts, tmp_path, "--dtype=bfloat16", num_tokens=NUM_TOKENS
    )
    agreed = sum(
        int((reference.logits(prompt, ours).argmax(axis=1) == ours).sum())
        for prompt, ours in zip(prompts, tokens, strict=True)
    )
    total = len(prompts) * NUM_TOKENS
    print(f"bfloat16 takes the reference's token {agreed} times of {total}: {agreed / total:.1%}")
    assert agreed / total > 0.9
