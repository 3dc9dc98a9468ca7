"""Compiles what a decoder's steps, and copies of KV, launch for a GPU that is not here, through the
very calls that launch it, and prints a line of JSON for each kernel. Run by
`test_triton_compiles.py`, since Triton interprets in the tests' own process.

    python compile_for_gpu.py MODEL CAPABILITY PROCESSORS SHARED_KIB
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from tandem.artifacts.config import ModelConfig
from tandem.core.kv import KVLayout
from tandem.core.plan import SampleSpec
from tandem.core.sampling_params import SamplingParams
from tandem.engine.torch import triton_products
from tandem.engine.torch.decode_graph import HostRows, _rows
from tandem.engine.torch.device_copies import DeviceCopies
from tandem.engine.torch.gpu_decoder import GpuDecoder, GpuRows
from tandem.engine.torch.gpu_inputs import GpuInputs
from tandem.engine.torch.graph_trial import trial_plan
from tandem.engine.torch.kv_pool import TorchKVPool
from tandem.engine.torch.sample_row import SampleRow
from tandem.engine.torch.triton_attention import QueryTiles, attend
from tandem.engine.torch.triton_chain import CHAINED_FROM, Processors
from tandem.engine.torch.triton_products import DEEP, NARROW, WIDE, FewRows
from tandem.engine.torch.triton_sampling import draw, draw_kept
from tandem.engine.torch.triton_token_attention import TokenAttention
from tandem.models.layers import Linear
from tandem.models.rope import RotaryEmbedding
from tandem.models.weights import DecoderWeights, LayerWeights

CPU = torch.device("cpu")
# Two layers each, of which the last computes few of a prompt's rows; of the vocabulary what an odd
# tile is left of.
LAYER = {
    "num_hidden_layers": 2,
    "vocab_size": 1000,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "eos_token_id": 0,
}
LLAMA_1B = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
}
# The sizes of Qwen 2.5 0.5B, which are no powers of two, with wider heads; and all that families
# other than Llama's have: biases, norms of queries and keys, windows.
ODD = {
    "architectures": ["Qwen3ForCausalLM"],
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "head_dim": 128,
    "attention_bias": True,
    "use_sliding_window": True,
    "sliding_window": 100,
    "max_window_layers": 0,
}
MODELS = {"llama-1b": LAYER | LLAMA_1B, "odd": LAYER | ODD}
MAX_MODEL_LEN = 256
# A line of `cuobjdump -sass`: where an instruction lies, perhaps its predicate, and its name.
INSTRUCTION = re.compile(r"/\*[0-9a-f]{4,}\*/ +(?:@!?U?P\w+ +)?([A-Z][A-Z0-9_]*)")
# Heads to a KV head, and their items: as larger models have, most to a tile, and part of a line.
OTHER_HEADS = ((8, 128), (16, 128), (3, 96))
# By size of batch.
TILINGS = {1: (WIDE, NARROW), 32: (WIDE,), 64: (WIDE, DEEP)}


class Utils:
    """Loads nothing, and says what the compiler's tools say of a kernel."""

    def __init__(self, shared_bytes: int) -> None:
        self._shared_bytes = shared_bytes

    def get_device_properties(self, _device: int) -> dict[str, int]:
        return {"max_shared_mem": self._shared_bytes}

    def load_binary(self, name: str, kernel: bytes, shared: int, _device: int) -> tuple[Any, ...]:
        said = dumped(kernel, "--dump-resource-usage")
        registers, spilled = (
            int(re.search(rf"{what}:(\d+)", said).group(1)) for what in ("REG", "LOCAL")
        )
        about = {
            "kernel": name,
            "registers": registers,
            "spilled": spilled,
            "shared": shared,
            "instructions": INSTRUCTION.findall(dumped(kernel, "-sass")),
        }
        print(json.dumps(about))
        return object(), object(), registers, spilled, 1024


def dumped(kernel: bytes, option: str) -> str:
    """What `cuobjdump` says of a kernel."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(kernel)
        command = [triton.knobs.nvidia.cuobjdump.path, option, file.name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


class Launcher:
    """Launches nothing."""

    def __init__(self, _source: object, _metadata: object) -> None:
        pass

    def __call__(self, *_arguments: object) -> None:
        pass


class AbsentGpu:
    """What Triton asks its driver."""

    launcher_cls = Launcher

    def __init__(self, capability: int, shared_bytes: int) -> None:
        self._capability = capability
        self.utils = Utils(shared_bytes)

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self._capability, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, _device: int) -> int:
        return 0


def weights(config: ModelConfig, dtype: torch.dtype) -> DecoderWeights[Linear]:
    def linear(num_outs: int, size: int, *, has_bias: bool = False) -> Linear:
        bias = torch.zeros(num_outs, dtype=dtype) if has_bias else None
        return Linear(torch.zeros(num_outs, size, dtype=dtype), bias)

    hidden, inner, head_dim = config.hidden_size, config.intermediate_size, config.head_dim
    norm = torch.ones(hidden, dtype=dtype)
    num_rotated = config.num_heads + config.num_kv_heads
    layer = LayerWeights(
        norm,
        linear((num_rotated + config.num_kv_heads) * head_dim, hidden, has_bias=config.qkv_bias),
        torch.ones(num_rotated, head_dim, dtype=dtype) if config.qk_norm else None,
        linear(hidden, config.num_heads * head_dim, has_bias=config.output_bias),
        norm,
        linear(2 * inner, hidden),
        linear(hidden, inner),
    )
    embedding = linear(config.vocab_size, hidden)
    return DecoderWeights(embedding, (layer,) * config.num_layers, norm, embedding)


def attend_widest(config: ModelConfig, tiles: Sequence[QueryTiles]) -> None:
    """By the widest keys that all these GPUs take."""
    q = torch.zeros(20, config.num_heads, 128)
    keys, values = torch.zeros(2, 80, 16, config.num_kv_heads, 128)
    for each in tiles:
        attend(q, keys, values, each, None, torch.empty_like(q))


def attend_other(rows: GpuRows, size: int, can_chain: bool, group: int, head_dim: int) -> None:
    """Heads of other models, `group` to each of eight KV heads."""
    qkv = torch.zeros(size, 8 * (group + 2) * head_dim, dtype=torch.bfloat16)
    pages = torch.zeros(1, 16, 8, head_dim, dtype=torch.bfloat16)
    angles = torch.zeros(1, head_dim)
    attention = TokenAttention(CPU, size, 8)
    attention.attend(
        *(qkv, (angles, angles), rows, None, 1e-5, pages, pages, None), is_chained=can_chain
    )


def main(model: str, capability: int, count: int, shared_bytes: int) -> None:
    config = ModelConfig.from_json(MODELS[model])
    driver.set_active(AbsentGpu(capability, shared_bytes))
    can_chain = divmod(capability, 10) >= CHAINED_FROM
    processors = Processors(count, shared_bytes, can_chain)
    triton_products.Processors = SimpleNamespace(of=lambda _device: processors)
    layout = KVLayout(config.num_layers, config.num_kv_heads, config.head_dim, 16, "bfloat16")
    pool = TorchKVPool(layout, 80, CPU)
    rotary = RotaryEmbedding(config, MAX_MODEL_LEN, CPU)
    copies = DeviceCopies(pool._items)
    for is_read in (True, False):
        copies.begin_staged(0, range(1), np.zeros(1, np.int64), 16, is_read=is_read).close()
    decoder = GpuDecoder(config, weights(config, torch.bfloat16), rotary, pool)
    last_tokens = torch.zeros(1, dtype=torch.int64)
    prompt = trial_plan(1, 16, 0)
    (single,) = prompt.slices
    long = single._replace(token_ids=(1,) * 20, start=0, block_table=(0, 1))
    prompt = replace(prompt, slices=(long,))
    inputs = GpuInputs.build(prompt, 16, config.num_heads // config.num_kv_heads, CPU)
    decoder.head(*decoder.residuals(inputs.rows, last_tokens), inputs.logit_rows)
    attend_widest(config, inputs.rows.tiles)
    for size, tilings in TILINGS.items():
        host = HostRows(size, pool, MAX_MODEL_LEN, pinned=False)
        host.fill(trial_plan(size, 16, 4))
        rows = _rows(host.items, size)
        logits = torch.empty(size, config.vocab_size, dtype=torch.bfloat16)
        attention = TokenAttention(CPU, size, config.num_kv_heads)
        for tiling in tilings:
            products = FewRows(CPU, tiling)
            for each in (attention, None):
                decoder.few_logits(rows, last_tokens, products, each, logits)
        decoder.logits(rows, last_tokens, out=logits)
        for group, head_dim in OTHER_HEADS:
            attend_other(rows, size, can_chain, group, head_dim)
    sample = SampleRow(SampleSpec(SamplingParams(max_tokens=1, seed=0)), 0)
    for each in (logits, logits.double()):
        draw(each, [sample], [0], torch.zeros(1, dtype=torch.int64))
    draw_kept(logits.double(), [sample])


if __name__ == "__main__":
    with torch.inference_mode():
        main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]) << 10)
