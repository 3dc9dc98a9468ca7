"""The engine's output is `expected_tokens`, however its work is cut up."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kv_items import read_kv

from tandem.core.errors import ConfigError
from tandem.core.kv import Plane
from tandem.core.plan import SampleSpec, SequenceSlice, StepPlan
from tandem.core.sampling_params import SamplingParams
from tandem.engine.fake import verifier
from tandem.engine.fake.content import expected_tokens

OUTPUTS = (1000, 2**31)


@dataclass
class Running:
    """A sequence as a worker keeps it: what is known, and how much of it is computed."""

    sequence_id: int
    prompt: list[int]
    params: SamplingParams
    num_tokens: int
    known: list[int] = field(default_factory=list)
    computed: int = 0
    block_table: list[int] = field(default_factory=list)

    def __post_init__(self):
        self.known = list(self.prompt)

    @property
    def finished(self) -> bool:
        return len(self.known) == len(self.prompt) + self.num_tokens

    def slice(self, length: int) -> SequenceSlice:
        end = self.computed + length
        sample = SampleSpec(self.params, self.sequence_id) if end == len(self.known) else None
        tokens = self.known[self.computed : end]
        return SequenceSlice(
            self.sequence_id, tokens, self.computed, tuple(self.block_table), sample
        )


def grow(blocks: list[int], running: Running, end: int, block_size: int) -> None:
    while len(running.block_table) * block_size < end:
        running.block_table.append(blocks.pop())


def preempt(blocks: list[int], running: Running) -> None:
    blocks[:0] = running.block_table
    running.block_table, running.computed = [], 0


def random_step(rng, engine, blocks: list[int], sequences: list[Running]) -> None:
    """Some of the unfinished sequences, each one token or a chunk on; now and then one restarts."""
    block_size = engine.pool.layout.block_size
    open_ones = [each for each in sequences if not each.finished]
    batch = rng.sample(open_ones, rng.randint(1, len(open_ones)))
    slices = []
    for each in batch:
        if rng.random() < 0.1:
            preempt(blocks, each)
        length = rng.randint(1, len(each.known) - each.computed)
        grow(blocks, each, each.computed + length, block_size)
        slices.append(each.slice(length))
    result = engine.launch(StepPlan(0, tuple(slices))).result()
    for each, part, token in zip(batch, slices, result.tokens, strict=True):
        each.computed = part.end
        assert (token is None) == (part.sample is None)
        if token is not None:
            each.known.append(token)


@settings(max_examples=60, deadline=None)
@given(
    rng=st.randoms(use_true_random=False),
    block_size=st.sampled_from([1, 3, 4, 16]),
    prompts=st.lists(st.lists(st.integers(0, 128_255), min_size=1, max_size=30), min_size=1),
    temperature=st.sampled_from([0.0, 0.8]),
    verify=st.sampled_from(["full", "incremental"]),
    hook=st.sampled_from([None, lambda layer: None]),
)
def test_any_tables_chunks_and_batches(
    make_engine, *, rng, block_size, prompts, temperature, verify, hook
):
    params = SamplingParams(max_tokens=100, seed=11, temperature=temperature)
    sequences = [Running(i, prompt, params, rng.randint(1, 8)) for i, prompt in enumerate(prompts)]
    num_blocks = sum(len(each.prompt) + each.num_tokens for each in sequences)
    engine = make_engine(
        block_size=block_size, num_blocks=num_blocks, verify=verify, output_token_ids=OUTPUTS
    )
    blocks = rng.sample(range(num_blocks), num_blocks)
    while not all(each.finished for each in sequences):
        random_step(rng, engine, blocks, sequences)
    for each in sequences:
        assert each.known[len(each.prompt) :] == expected_tokens(
            each.prompt,
            params,
            each.num_tokens,
            output_token_ids=OUTPUTS,
            choice_index=each.sequence_id,
        )


def test_decode_goes_on_from_kv_that_another_engine_sent(make_engine, make_slice):
    prompt = list(range(50, 61))
    prefill, decode = make_engine(), make_engine()
    first = prefill.launch(StepPlan(0, (make_slice(prompt, [9, 2, 30]),))).result().tokens[0]
    for plane in Plane:
        for layers in (range(1), range(1, 4)):
            data = read_kv(prefill.pool, plane, layers, [9, 2, 30], len(prompt))
            decode.pool.write(plane, layers, [7, 63, 0], len(prompt), data)
    step = StepPlan(0, (make_slice([first], [7, 63, 0], start=len(prompt)),))
    params = SamplingParams(max_tokens=9, seed=0, temperature=0.0)
    expected = expected_tokens(prompt, params, 2, output_token_ids=(0, 2**31))
    assert [first, *decode.launch(step).result().tokens] == expected


def test_a_batch_that_is_read_in_several_parts(make_engine, make_slice):
    prompts = [list(range(n, 2 * n)) for n in (700, 1000, 1, 900)]
    tables = [range(n * 100, n * 100 + 100) for n in range(len(prompts))]
    engine = make_engine(block_size=16, num_blocks=400)
    slices = tuple(
        make_slice(prompt, table, sequence_id=n)
        for n, (prompt, table) in enumerate(zip(prompts, tables, strict=True))
    )
    params = SamplingParams(max_tokens=1, seed=0, temperature=0.0)
    expected = [expected_tokens(p, params, 1, output_token_ids=(0, 2**31))[0] for p in prompts]
    assert engine.launch(StepPlan(0, slices)).result().tokens == tuple(expected)


def test_an_empty_step(make_engine):
    assert make_engine().launch(StepPlan(0, ())).result().tokens == ()


def test_layers_are_announced_in_order_with_their_kv_in_the_pool(make_engine, make_slice):
    engine = make_engine()
    seen = []

    def on_layer(layer: int) -> None:
        written = engine.pool.array[:, :, 5].any(axis=(0, 2, 3, 4))
        seen.append((layer, written.tolist()))

    engine.launch(StepPlan(0, (make_slice([1, 2], [5]),)), on_layer)
    assert seen == [(n, [n >= layer for layer in range(4)]) for n in range(4)]


def test_dropping_what_is_known_changes_no_output(make_engine, make_slice, monkeypatch):
    monkeypatch.setattr(verifier, "MAX_KNOWN", 1)
    engine = make_engine(verify="incremental")
    known = {0: [1, 2, 3], 1: [4, 5, 6]}
    for step in range(3):
        start = 0 if step == 0 else 2 + step
        slices = tuple(
            make_slice(tokens[start:], [n * 2, n * 2 + 1], start=start, sequence_id=n)
            for n, tokens in known.items()
        )
        for n, token in enumerate(engine.launch(StepPlan(step, slices)).result().tokens):
            known[n].append(token)
    params = SamplingParams(max_tokens=9, seed=0, temperature=0.0)
    for tokens in known.values():
        assert tokens[3:] == expected_tokens(tokens[:3], params, 3, output_token_ids=(0, 2**31))


@pytest.mark.parametrize("outputs", [(-1, 5), (5, 5), (0, 2**31 + 1)])
def test_an_impossible_range_of_outputs_is_refused(make_engine, outputs):
    with pytest.raises(ConfigError):
        make_engine(output_token_ids=outputs)
