"""The GPU's runner: on a GPU, or else by Triton's interpreter and without graphs."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch_driver import Driver, assert_close, assert_runs_ahead, save_random_model, take_steps
from transformers import LlamaConfig, MistralConfig, PretrainedConfig, Qwen3Config

from tandem.artifacts.model_folder import ModelFolder
from tandem.core.kv import KVLayout
from tandem.core.plan import PENDING, SampleSpec, SequenceSlice, StepPlan
from tandem.engine.allowed_tokens import barred_tokens
from tandem.engine.torch import first_steps as first_steps_module
from tandem.engine.torch.adjustments import is_adjusted
from tandem.engine.torch.device_sampling import MAX_ROWS
from tandem.engine.torch.first_steps import MOST, first_steps
from tandem.engine.torch.plan_check import PlanCheck
from tandem.engine.torch.sample_row import SampleRow
from tandem.models.rope import RotaryEmbedding
from tandem.models.weights import PlainPacker, load_weights

pytest.importorskip("triton", reason="TRITON IS NOT INSTALLED: the GPU's runner is untested")

from tandem.engine.torch import decode_graph, triton_attention, triton_token_attention
from tandem.engine.torch.decode_graph import DecodeGraphs, Way
from tandem.engine.torch.gpu_decoder import GpuDecoder, GpuRows
from tandem.engine.torch.gpu_runner import GpuRunner
from tandem.engine.torch.graph_trial import Trial
from tandem.engine.torch.kv_pool import TorchKVPool
from tandem.engine.torch.triton_products import WIDE, FewRows
from tandem.engine.torch.triton_token_attention import FEW, TokenAttention

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
MAX_MODEL_LEN = 1024
SIZES = {"vocab_size": 307, "num_hidden_layers": 2, "max_position_embeddings": MAX_MODEL_LEN}
CONFIGS: dict[str, PretrainedConfig] = {
    "groups of 3": LlamaConfig(
        **SIZES,
        hidden_size=72,
        intermediate_size=172,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=24,
        tie_word_embeddings=True,
    ),
    "windows": MistralConfig(
        **SIZES,
        hidden_size=64,
        intermediate_size=144,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        sliding_window=24,
    ),
    "norms of q and k": Qwen3Config(
        **SIZES,
        hidden_size=64,
        intermediate_size=144,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=32,
    ),
}


@pytest.fixture(params=CONFIGS)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    save_random_model(CONFIGS[request.param], tmp_path)
    return tmp_path


def on_gpu(driver: Driver, path: Path, *, decodes: bool = True, way: str = "library") -> Driver:
    """The same engine with the GPU's runner, over the same pool. By few rows it decodes with
    products of its own, and with attention in one kernel or in three."""
    engine = driver.engine
    folder = ModelFolder.open(path)
    weights = load_weights(folder.config, folder.weight_files, torch.float32, DEVICE, PlainPacker())
    rotary = RotaryEmbedding(folder.config, MAX_MODEL_LEN, DEVICE)
    decoder = GpuDecoder(folder.config, weights, rotary, engine.pool)
    runner = GpuRunner(folder.config, decoder, engine.pool, DEVICE, MAX_MODEL_LEN, decodes)
    if way != "library":
        products = FewRows(DEVICE, WIDE)
        attention = TokenAttention(DEVICE, 8, folder.config.num_kv_heads)
        used = attention if way == "few rows" else None

        def decode(rows: GpuRows, logits: torch.Tensor) -> None:
            decoder.few_logits(rows, runner._last_tokens, products, used, logits)

        vocab_size = folder.config.vocab_size
        ways = [Way(way, decode)]
        runner.graphs = DecodeGraphs(
            ways, engine.pool, DEVICE, MAX_MODEL_LEN, vocab_size, torch.float32
        )
    engine._runner = engine._ahead = runner
    return driver


@pytest.fixture
def interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the interpreter, which runs one program after the other, can do in time."""
    if DEVICE.type == "cuda":
        pytest.skip("NOT TESTED ON A GPU: the other engine's pool is in host memory")
    monkeypatch.setattr(decode_graph, "BATCH_SIZES", (1, 2, 4, 8))
    monkeypatch.setattr(triton_attention, "SPLIT_PROGRAMS", 8)
    monkeypatch.setattr(triton_token_attention, "FEW", replace(FEW, programs=8))
    monkeypatch.setattr(first_steps_module, "BATCH_SIZES", (1, 2, 4, 8))
    monkeypatch.setattr(first_steps_module, "PROMPTS", (24,))


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("way", ["library", "few rows", "few rows, attention in three"])
def test_logits_and_kv_are_those_of_the_other_runners(path: Path, way: str) -> None:
    draw = random.Random(0)
    prompts = [[draw.randrange(300) for _ in range(length)] for length in (1, 5, 40, 130)]
    gpu = on_gpu(Driver(path, seed=2), path, way=way)
    drivers = Driver(path, seed=1), gpu
    computed = []
    for driver in drivers:
        rows = [driver.row(prompt) for prompt in prompts]
        take_steps(driver, rows)
        computed.append(rows)
    for expected, row in zip(*computed, strict=True):
        assert_close(drivers, (expected, row), torch.float32, 1e-4)


@pytest.mark.usefixtures("interpreted")
def test_scores_are_those_of_the_other_runners(path: Path) -> None:
    """Also of a chunk of one token, as steps have that are replayed."""
    draw = random.Random(0)
    prompts = [[draw.randrange(300) for _ in range(length)] for length in (40, 5)]
    computed = []
    for driver in (Driver(path, seed=1), on_gpu(Driver(path, seed=2), path)):
        long, short = (driver.row(prompt) for prompt in prompts)
        for work in ([(long, 16), (short, 5)], [(long, 1)], [(long, 23)]):
            driver.step(work, num_top=4, unsampled=[0])
        computed.append((long, short))
    for expected, row in zip(*computed, strict=True):
        assert row.scores.keys() == expected.scores.keys() == set(range(1, len(row.tokens)))
        for position, scored in row.scores.items():
            known = expected.scores[position]
            assert scored.logprob == pytest.approx(known.logprob, abs=1e-3)
            assert scored.top_logprobs.tolist() == pytest.approx(
                known.top_logprobs.tolist(), abs=1e-3
            )


@pytest.mark.usefixtures("interpreted")
def test_steps_that_are_launched_ahead_take_the_tokens_of_the_step_before(path: Path) -> None:
    assert_runs_ahead(on_gpu(Driver(path), path))


@pytest.mark.usefixtures("interpreted")
def test_a_warm_engine_has_sampled_in_every_way(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = on_gpu(Driver(path), path)
    expected = driver.generate([5, 6, 7], 4, chunk=2)
    engine, plans = driver.engine, []
    launch = engine.launch
    monkeypatch.setattr(engine, "launch", lambda plan: (plans.append(plan), launch(plan))[1])
    engine.warm_up()
    monkeypatch.undo()
    counts = [*[2, 1] * 5, 2, 4, 8, MAX_ROWS, 1]
    # Each step beside the one before, as they run ahead.
    assert [len(plan.slices) for plan in plans] == [count for count in counts for _ in range(2)]
    assert engine._runner.graphs.can_replay(plans[-5])
    assert driver.generate([5, 6, 7], 4, chunk=2) == expected


@pytest.mark.usefixtures("interpreted")
def test_who_does_not_decode_has_no_graphs_and_the_same_tokens(path: Path) -> None:
    expected = on_gpu(Driver(path), path).generate([5, 6, 7], 3, chunk=2)
    driver = on_gpu(Driver(path), path, decodes=False)
    assert driver.engine.runner.graphs is None
    driver.engine.warm_up()
    assert driver.generate([5, 6, 7], 3, chunk=2) == expected


def test_what_takes_most_takes_all_that_there_is() -> None:
    assert SampleRow(SampleSpec(MOST), 0).is_filtered
    assert is_adjusted(MOST)
    assert barred_tokens(MOST, 0, frozenset())
    assert MOST.logprobs


def test_in_a_pool_that_is_too_small_nothing_is_warmed_up() -> None:
    assert list(first_steps(16, 2, 100)) == []
    assert len(list(first_steps(16, 3, 100))) == 23
    assert len(list(first_steps(16, 2, 5))) == 23


def test_the_longest_prompts_that_fit_are_warmed_up_for() -> None:
    def lengths(num_blocks: int, max_model_len: int) -> list[int]:
        plans = list(first_steps(16, num_blocks, max_model_len))[23:]
        return [len(plan.slices[0].token_ids) for plan in plans]

    assert lengths(1000, 4096) == [256, 512, 1024, 2048]
    assert lengths(1000, 1024) == [256, 512, 1024]
    assert lengths(63, 4096) == [256, 512]


def test_a_sequence_that_is_back_in_other_blocks_has_another_table() -> None:
    """The rows of one size are not told of the steps in between, which other sizes took."""
    pool = TorchKVPool(KVLayout(1, 1, 4, 4, "float32"), 60, torch.device("cpu"))
    rows = decode_graph.HostRows(8, pool, max_model_len=64, pinned=False)

    def step(table_id: int, *blocks: int) -> list[int]:
        each = SequenceSlice(7, (1,), 5, blocks, None, table_id=table_id)
        rows.fill(StepPlan(1, (each,)))
        return rows._tables.rows[0, :2].tolist()

    assert step(1, 4, 14) == [4, 14]
    assert step(2, 50, 51) == [50, 51]


def test_a_token_under_way_is_named_by_its_row_of_the_step_before() -> None:
    pool = TorchKVPool(KVLayout(1, 1, 4, 4, "float32"), 60, torch.device("cpu"))
    rows = decode_graph.HostRows(4, pool, max_model_len=64, pinned=False)
    slices = (
        SequenceSlice(sequence_id, (token_id,), 0, (sequence_id,), None)
        for sequence_id, token_id in [(7, PENDING), (8, 5), (9, PENDING)]
    )
    rows.fill(StepPlan(1, tuple(slices)), {7: 2, 8: 1, 9: 0})
    assert rows.items[:3].tolist() == [-3, 5, -1]


def test_what_a_step_copies_grows_with_the_blocks_that_it_has() -> None:
    pool = TorchKVPool(KVLayout(1, 1, 4, 4, "float32"), 60, torch.device("cpu"))
    rows = decode_graph.HostRows(8, pool, max_model_len=4000, pinned=False)

    def step(*tables: tuple[int, ...]) -> list[list[int]]:
        slices = (
            SequenceSlice(number, (1,), 4 * len(table) - 1, table, None)
            for number, table in enumerate(tables)
        )
        num_items = rows.fill(StepPlan(1, tuple(slices)))
        columns, blocks = rows.items[:num_items].split([4 * 8, num_items - 4 * 8])
        assert columns.view(4, 8)[2, : len(tables)].tolist() == [4 * t[-1] + 3 for t in tables]
        return blocks.view(-1, 8).T[: len(tables)].tolist()

    assert step((4,)) == [[4]]
    assert step((4, 9), (5,)) == [[4, 9], [5, 0]]
    (first, second) = step((4, 9), (5, 1, 2))
    assert first[:2] == [4, 9] and second == [5, 1, 2]


def test_blocks_that_no_step_can_look_at_are_left_out() -> None:
    """A table may be longer than the model's longest sequence."""
    pool = TorchKVPool(KVLayout(1, 1, 4, 16, "float32"), 60, torch.device("cpu"))
    rows = decode_graph.HostRows(2, pool, max_model_len=64, pinned=False)
    plan = StepPlan(1, (SequenceSlice(7, (1,), 5, (1, 2, 3, 4, 5), None),))
    PlanCheck(vocab_size=9, max_model_len=64, block_size=16, num_blocks=60).check(plan)
    num_items = rows.fill(plan)
    # The columns of two rows, and a block of each.
    assert num_items == 4 * 2 + 2
    assert rows.items[:num_items:2].tolist() == [1, 5, 16 + 5, 1, 1]


def test_steps_of_sizes_that_cannot_be_recorded_take_a_larger_graph_or_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As where memory is short. What has ended the GPU's use ends the start."""
    pool = TorchKVPool(KVLayout(1, 1, 4, 16, "float32"), 600, torch.device("cpu"))

    def graphs(*without: int) -> DecodeGraphs:
        def record(trial: Trial, ways: Sequence[Way], record: Callable[[Way], object], *_: object):  # type: ignore[no-untyped-def]
            if trial.size in without:
                raise RuntimeError("CUDA out of memory")
            return record(ways[0])

        monkeypatch.setattr(decode_graph, "fastest", record)
        way = Way("any", lambda rows, logits: None)
        return DecodeGraphs([way], pool, torch.device("cpu"), 64, 9, torch.float32)

    def plan(count: int) -> StepPlan:
        sample = SampleSpec(first_steps_module.GREEDY)
        slices = (SequenceSlice(row, (1,), 5, (row,), sample) for row in range(count))
        return StepPlan(1, tuple(slices))

    some = graphs(256, 192, 8)
    assert [some.can_replay(plan(count)) for count in (1, 7, 128, 129)] == [True] * 3 + [False]
    assert len(some.of(plan(7))._logits) == 16
    assert not graphs(*decode_graph.BATCH_SIZES).can_replay(plan(1))
    monkeypatch.setattr(decode_graph, "is_lost", lambda _device: True)
    with pytest.raises(RuntimeError, match="out of memory"):
        graphs(8)
