"""Steps whose tokens nobody wants, before there are any that somebody waits for."""

from __future__ import annotations

from collections.abc import Iterator

from tandem.core.plan import SampleSpec, SequenceSlice, StepPlan
from tandem.core.sampling_params import SamplingParams
from tandem.engine.torch.batch_sizes import BATCH_SIZES
from tandem.engine.torch.device_sampling import MAX_ROWS

# Libraries have other kernels for many rows than for few, each loaded when it is first wanted.
PROMPTS = (256, 512, 1024, 2048)

GREEDY = SamplingParams(max_tokens=1, seed=0, temperature=0.0)
DRAWN = SamplingParams(max_tokens=1, seed=0)
NUCLEUS = SamplingParams(max_tokens=1, seed=0, top_p=0.9)
FEW = SamplingParams(max_tokens=1, seed=0, top_p=0.9, top_k=20)
# What takes most.
MOST = SamplingParams(
    max_tokens=1,
    seed=0,
    temperature=0.7,
    top_p=0.9,
    top_k=50,
    min_p=0.01,
    presence_penalty=0.5,
    frequency_penalty=0.5,
    repetition_penalty=1.1,
    logit_bias=((0, 1.0),),
    min_tokens=1,
    stop_token_ids=frozenset({0}),
    logprobs=1,
)


def first_steps(block_size: int, num_blocks: int, max_model_len: int) -> Iterator[StepPlan]:
    """For each way of sampling a prompt beside a single token, then the latter alone; then as many
    of these as each graph is for, which a device first loads when it is replayed; as many as are
    sampled from at a time, for what takes most; and prompts, longer each time. In a pool where no
    block is anybody's; only what it holds."""
    num_tokens = min(block_size + 1, max_model_len)
    blocks = tuple(range(-(-num_tokens // block_size)))
    if len(blocks) >= num_blocks:
        return
    for params in (GREEDY, DRAWN, NUCLEUS, FEW, MOST):
        sample = SampleSpec(params)
        prompt = SequenceSlice(-1, (0,) * num_tokens, 0, blocks, sample)
        single = SequenceSlice(-2, (0,), 0, (len(blocks),), sample)
        yield StepPlan(0, (prompt, single))
        yield StepPlan(0, (single,))
    # Kernels have variants by how many rows a step has, in powers of two, which are among these.
    for count in BATCH_SIZES[1:]:
        yield _singles(single._replace(sample=SampleSpec(GREEDY)), count)
    # What sampling takes is had from the device.
    yield _singles(single, MAX_ROWS)
    for num_tokens in PROMPTS:
        blocks = tuple(range(-(-num_tokens // block_size)))
        if num_tokens <= max_model_len and len(blocks) <= num_blocks:
            prompt = SequenceSlice(-1, (0,) * num_tokens, 0, blocks, SampleSpec(GREEDY))
            yield StepPlan(0, (prompt,))


def _singles(single: SequenceSlice, count: int) -> StepPlan:
    return StepPlan(0, tuple(single._replace(sequence_id=-2 - row) for row in range(count)))
