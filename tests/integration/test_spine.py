"""The whole system on mock GPUs: real processes, real gRPC, every KV byte read."""

from __future__ import annotations

import asyncio
import random
import signal

import pytest
from stack import RecordingDispatcher, collect, expected_mock_tokens, running_stack, upcoming

from gateway.colocated_policies import COLOCATED_POLICIES
from gateway.generation import Phase
from gateway.shared_state import Limits
from gateway.tokens import ServingMode
from tandem.core.sequence import FinishReason

VOCAB = 256


def random_prompt(rng: random.Random, longest: int) -> tuple[int, ...]:
    return tuple(rng.randrange(VOCAB) for _ in range(rng.randint(1, longest)))


@pytest.mark.parametrize(
    ("topology", "batching", "flags"),
    [((1, 1), "chunked", ()), ((1, 2), "chunked", ()), ((2, 1), "chunked", ())]
    + [((0, 1), name, ()) for name in COLOCATED_POLICIES]
    + [((0, 2), "chunked", ())]
    + [((1, 1), "chunked", ("--mock-runs-ahead",))],
)
async def test_tokens_are_the_expected_ones(
    topology: tuple[int, int], batching: str, flags: tuple[str, ...]
) -> None:
    rng = random.Random(0)
    setup = {"batching": batching, "prefill_token_budget": 100}
    async with running_stack(*topology, *flags, limits=Limits(256), **setup) as stack:
        prompts = [random_prompt(rng, 700) for _ in range(24)]
        lengths = [rng.randint(1, 40) for _ in prompts]
        streams = [
            stack.submit(f"r{i}", *each)
            for i, each in enumerate(zip(prompts, lengths, strict=True))
        ]
        for prompt, length, stream in zip(prompts, lengths, streams, strict=True):
            tokens, ended = await collect(stream)
            assert tokens == expected_mock_tokens(prompt, length)
            assert ended.finish_reason is FinishReason.LENGTH
            assert bool(ended.served_by.decode_worker) == (length > 1 or topology[0] == 0)
        await stack.until_all_free()


async def test_seeded_sampling_is_a_function_of_the_seed() -> None:
    async with running_stack(1, 1) as stack:
        prompt = tuple(range(100))
        for seed in (1, 2):
            stream = stack.submit(f"s{seed}", prompt, 16, temperature=1.0, seed=seed)
            tokens, _ = await collect(stream)
            assert tokens == expected_mock_tokens(prompt, 16, temperature=1.0, seed=seed)


async def test_every_sequence_runs_from_arming_to_end_and_no_longer() -> None:
    """Continuous batching, from the worker's own step log: 1,000 requests at random."""
    rng = random.Random(1)
    async with running_stack(1, 1, "--max-num-seqs=64") as stack:
        pending: set[asyncio.Task[object]] = set()
        for i in range(1000):
            stream = stack.submit(f"r{i}", random_prompt(rng, 48), rng.randint(2, 24))
            pending.add(asyncio.create_task(collect(stream)))
            if rng.random() < 0.3:
                await asyncio.sleep(rng.random() * 0.01)
            if len(pending) >= 128:
                _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.gather(*pending)
        assert count_violations(stack.dispatcher) == (0, 1000)
        await stack.until_all_free()


def count_violations(recorder: RecordingDispatcher) -> tuple[int, int]:
    """(violations, sequences): a sequence that is not in the first step that starts after its
    arming, that misses a step before its end, or that is in one outside of that."""
    ((worker_id, steps),) = recorder.steps.items()
    violations = 0
    lives: dict[int, list[int]] = {}
    for index, step in enumerate(steps):
        for sequence_id in step.sequence_ids:
            lives.setdefault(sequence_id, []).append(index)
    for sequence_id, indices in lives.items():
        armed_ns = recorder.armed[worker_id, sequence_id].at_ns
        first = next(i for i, step in enumerate(steps) if step.start_ns >= armed_ns)
        violations += indices != list(range(first, first + len(indices)))
        last = steps[indices[-1]]
        reason = last.finish_reasons[last.sequence_ids.index(sequence_id)]
        violations += reason is None
    return violations, len(lives)


async def test_cancel_in_any_phase_frees_all_blocks() -> None:
    rng = random.Random(2)
    phases: set[Phase] = set()
    async with running_stack(1, 1, devices=["mock:h100x3"], limits=Limits(512)) as stack:
        for i in range(100):
            companions = [
                stack.submit(f"c{i}.{j}", random_prompt(rng, 600), rng.randint(2, 40))
                for j in range(rng.randint(0, 3))
            ]
            stream = stack.submit(f"x{i}", random_prompt(rng, 1500), 64)
            for _ in range(rng.choice((0, 0, 1, 2, 5))):
                await upcoming(stream)
            await asyncio.sleep(rng.random() * 0.03)
            phases.add(stream.generation.phase)
            stream.cancel()
            stream.cancel()
            for companion in companions:
                if rng.random() < 0.5:
                    companion.cancel()
                else:
                    await collect(companion)
        await stack.until_all_free()
        assert not stack.dispatcher._streams
    assert phases >= {Phase.QUEUED, Phase.PREFILLING, Phase.DECODING}


@pytest.mark.parametrize("victim", [0, 1])
async def test_a_killed_worker_costs_time_and_nothing_else(victim: int) -> None:
    """What it held goes on with its successor, from the token that it had reached."""
    async with running_stack(1, 1, devices=["mock:h100x20"], limits=Limits(600)) as stack:
        # No two begin alike: none waits for another.
        prompts = [(number, *range(199)) for number in range(8)]
        streams = [stack.submit(f"r{i}", prompt, 60) for i, prompt in enumerate(prompts)]
        seen = await upcoming(streams[0])
        # All have come to the decode worker, and perhaps left it.
        await stack.until(lambda: all(each.generation.decode_worker for each in streams))
        worker = stack.workers[victim]
        worker.signal(signal.SIGKILL)
        await worker.stop()
        await worker.start()
        results = await asyncio.gather(*map(collect, streams))
        for number, (tokens, _) in enumerate(results):
            expected = expected_mock_tokens(prompts[number], 60)
            assert tokens == expected[0 if number else len(seen) :]
        num_losses = [ended.served_by.num_losses for _, ended in results]
        assert max(num_losses) == 1
        # Those that the prefill worker was through with went on without it.
        assert victim == 0 or num_losses == [1] * 8
        tokens, _ = await collect(stack.submit("after", tuple(range(50)), 5))
        assert tokens == expected_mock_tokens(tuple(range(50)), 5)
        await stack.until_all_free()


async def test_without_its_last_prefill_worker_a_fleet_goes_on() -> None:
    """Decode workers compute what was under way, and whatever comes, until there is one again."""
    async with running_stack(
        1, 1, devices=["mock:h100x20"], limits=Limits(600), local_prefill="auto"
    ) as stack:
        prompt = tuple(range(200))
        streams = [stack.submit(f"r{i}", prompt, 20) for i in range(8)]
        await upcoming(streams[0])
        worker = stack.workers[0]
        worker.signal(signal.SIGKILL)
        await stack.until(lambda: not stack.dispatcher.is_connected(worker.address))
        assert stack.dispatcher.ready
        streams += [stack.submit(f"late {n}", prompt, n) for n in (1, 20)]
        results = await asyncio.gather(*map(collect, streams[1:]))
        tokens = expected_mock_tokens(prompt, 20)
        assert [each for each, _ in results] == [tokens] * 7 + [tokens[:1], tokens]
        assert all(ended.served_by.mode is ServingMode.LOCAL for _, ended in results[-2:])
        await worker.stop()
        await worker.start()
        await stack.until(lambda: stack.dispatcher.is_connected(worker.address), 60)
        again, _ = await collect(stack.submit("again", prompt, 20))
        assert again == tokens
        await stack.until_all_free()
