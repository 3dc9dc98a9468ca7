"""What a trial finds wrong with a way of computing steps, and what not: interpreted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch_driver import save_random_model
from transformers import LlamaConfig

from tandem.artifacts.model_folder import ModelFolder
from tandem.core.kv import KVLayout
from tandem.models.rope import RotaryEmbedding
from tandem.models.weights import PlainPacker, load_weights

pytest.importorskip("triton", reason="TRITON IS NOT INSTALLED: the GPU's trial is untested")

from tandem.engine.torch import graph_trial, triton_attention, triton_token_attention
from tandem.engine.torch.decode_graph import Decode, DecodeGraph, Way
from tandem.engine.torch.gpu_decoder import GpuDecoder, GpuRows
from tandem.engine.torch.graph_trial import Trial, difference, trial_plan
from tandem.engine.torch.kv_pool import TorchKVPool
from tandem.engine.torch.triton_products import WIDE, FewRows
from tandem.engine.torch.triton_token_attention import FEW, TokenAttention

CPU = torch.device("cpu")
MAX_MODEL_LEN, BLOCK_SIZE, SIZE = 512, 16, 3
CONFIG = LlamaConfig(
    vocab_size=307,
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    max_position_embeddings=MAX_MODEL_LEN,
    tie_word_embeddings=True,
)

Change = Callable[[GpuRows], GpuRows]


class Tried:
    """A model's trial, and what the library's way has left in it."""

    def __init__(self, path: Path) -> None:
        save_random_model(CONFIG, path)
        folder = ModelFolder.open(path)
        config = folder.config
        weights = load_weights(config, folder.weight_files, torch.float32, CPU, PlainPacker())
        layout = KVLayout(
            config.num_layers, config.num_kv_heads, config.head_dim, BLOCK_SIZE, "float32"
        )
        self.pool = TorchKVPool(layout, 40, CPU)
        rotary = RotaryEmbedding(config, MAX_MODEL_LEN, CPU)
        self._decoder = GpuDecoder(config, weights, rotary, self.pool)
        self._last_tokens = torch.zeros(SIZE, dtype=torch.int64)
        self._products = FewRows(CPU, WIDE)
        self._attention = TokenAttention(CPU, SIZE, config.num_kv_heads)
        self.trial = Trial(self.pool, SIZE, MAX_MODEL_LEN)
        self._expected = self._results(
            lambda rows, out: self._decoder.logits(rows, self._last_tokens, out=out)
        )

    def by_few_rows(self, change: Change, *, in_three: bool = False) -> float:
        """The difference of the other way when a step's rows are changed."""
        attention = None if in_three else self._attention
        return self.difference(
            lambda rows, out: self._decoder.few_logits(
                change(rows), self._last_tokens, self._products, attention, out
            )
        )

    def difference(self, decode: Decode) -> float:
        return difference(self._results(decode), self._expected)

    def _results(self, decode: Decode) -> list[torch.Tensor]:
        logits = torch.empty(SIZE, CONFIG.vocab_size)
        graph = DecodeGraph(Way("tried", decode), self.pool, CPU, MAX_MODEL_LEN, logits, None)
        return self.trial.results(graph)


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tried]:
    if torch.cuda.is_available():
        pytest.skip("NOT TESTED ON A GPU: a pool in host memory, which only the interpreter takes")
    with pytest.MonkeyPatch.context() as patch:
        # What the interpreter, which runs one program after the other, can do in time.
        patch.setattr(triton_attention, "SPLIT_PROGRAMS", 8)
        patch.setattr(triton_token_attention, "FEW", replace(FEW, programs=8))
        patch.setattr(graph_trial, "MOST_BEFORE", 6)
        yield Tried(tmp_path_factory.mktemp("tried"))


def of_tiles(**changes: Callable[[torch.Tensor], torch.Tensor]) -> Change:
    def changed(rows: GpuRows) -> GpuRows:
        (tiles,) = rows.tiles
        values = {name: change(getattr(tiles, name)) for name, change in changes.items()}
        return replace(rows, tiles=[replace(tiles, **values)])

    return changed


def of_rows(**changes: Callable[[torch.Tensor], torch.Tensor]) -> Change:
    return lambda rows: replace(
        rows, **{name: change(getattr(rows, name)) for name, change in changes.items()}
    )


@pytest.mark.parametrize("in_three", [False, True])
def test_another_way_to_the_same_is_right(tried: Tried, in_three: bool) -> None:
    for _ in range(2):
        assert tried.by_few_rows(lambda rows: rows, in_three=in_three) < 1e-4


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(of_tiles(tables=torch.zeros_like), id="all read one block"),
        pytest.param(of_tiles(tables=lambda it: it + 1), id="the next block is read"),
        pytest.param(
            of_rows(slots=lambda it: torch.full_like(it, 40 * BLOCK_SIZE)), id="stored elsewhere"
        ),
        pytest.param(of_rows(slots=lambda it: it + 1), id="stored a place too far"),
        pytest.param(of_rows(slots=lambda it: it.flip(0)), id="stored in another's place"),
        pytest.param(of_rows(positions=lambda it: it + 1), id="a key too many"),
        pytest.param(of_rows(positions=lambda it: (it - 1).clamp(0)), id="a key too few"),
        pytest.param(of_rows(positions=lambda it: it // 16 * 16), id="whole blocks alone"),
    ],
)
def test_what_reads_or_stores_something_else_is_wrong(tried: Tried, change: Change) -> None:
    assert tried.by_few_rows(change) > 0.2


def test_of_the_keys_that_a_step_finds_none_is_missed_unseen(tried: Tried) -> None:
    """Right positions, and keys one less: by the kernels that have both."""
    assert tried.by_few_rows(of_tiles(positions=lambda it: it - 1), in_three=True) > 0.2


def test_a_row_that_is_no_number_is_no_agreement(tried: Tried) -> None:
    assert not tried.difference(lambda _rows, out: out.fill_(float("nan"))) <= 1e9


def test_the_pool_is_as_it_was_afterwards(tried: Tried) -> None:
    """The spare block, which is anybody's, apart."""
    blocks = tried.pool._items[:, :, : tried.pool.num_blocks]
    assert blocks.count_nonzero() > 0
    tried.trial.clear()
    assert blocks.count_nonzero() == 0


def test_a_trial_takes_no_more_blocks_and_positions_than_there_are() -> None:
    layout = KVLayout(1, 1, 4, BLOCK_SIZE, "float32")
    for num_blocks in (1, 2, 3, 7, 40, 200):
        for size in (1, 2, 16, 64):
            for max_model_len in (16, 31, 32, 50, 4096):
                pool = TorchKVPool(layout, num_blocks, CPU)
                trial = Trial(pool, size, max_model_len)
                assert trial.fits == (2 * size <= num_blocks and max_model_len >= 32)
                for plan in trial._plans() if trial.fits else ():
                    blocks = {block for each in plan.slices for block in each.block_table}
                    assert max(blocks) < num_blocks
                    assert all(each.end <= max_model_len for each in plan.slices)
                    assert all(each.end <= 16 * len(each.block_table) for each in plan.slices)


def test_each_row_has_what_it_stores_alone() -> None:
    for step in range(2):
        plan = trial_plan(64, BLOCK_SIZE, 5, step)
        slots = [(each.block_table[each.start // 16], each.start % 16) for each in plan.slices]
        assert len(set(slots)) == 64
        before = {each.block_table[index] for each in plan.slices for index in range(3)}
        assert not before & {block for block, _ in slots}
        assert len({each.start for each in plan.slices}) > 40
        assert {offset for _, offset in slots} == set(range(16))


@pytest.mark.parametrize(("num_layers", "tolerance"), [(2, 0.05), (16, 0.05), (64, 0.1)])
def test_more_layers_may_round_more(num_layers: int, tolerance: float) -> None:
    pool = TorchKVPool(KVLayout(num_layers, 1, 4, BLOCK_SIZE, "float32"), 4, CPU)
    assert Trial(pool, 1, 64).tolerance == pytest.approx(tolerance)
