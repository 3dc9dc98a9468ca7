"""What the torch engine's steps and KV copies cost on this GPU, and the limits beside them.

The model is random, in the shape of Llama 3.2 1B and in bfloat16. The floor of a decode step is the
bytes of its weights and of its KV at the rate at which this GPU reads memory; a prefill is held
against the rate of one large product, and the KV's way, as workers' transfer threads have it
(`gpu_copies.py`), against plain copies from and to pinned memory. All limits are measured in the
same run; medians. Whose products a decode step takes is what was faster at the start; by the
library's alone with `TANDEM_KERNELS=torch`.

Mixed steps, single tokens beside a prompt's, and what else than the likeliest token costs, are
held against the step of single tokens that takes the likeliest.

    .venv/bin/python benchmarks/gpu.py [--repeats 30] [--part decode mixed sampling prefill kv]
        [--profile] [--keep]
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from gpu_copies import KvCopies, Way, run_ahead
from performance.gpu_tables import (
    GPU_COPIES,
    GPU_DECODE,
    GPU_MIXED,
    GPU_PREFILL,
    GPU_SAMPLED,
    GpuCopies,
    GpuDecode,
    GpuMixed,
    GpuPrefill,
    GpuSampled,
)
from performance.notes import Notes, add_keep
from performance.record import Machine
from safetensors.torch import save_file
from torch.profiler import ProfilerActivity, profile

from tandem.artifacts.config import ModelConfig
from tandem.artifacts.model_folder import ModelFolder
from tandem.artifacts.tensor_shapes import EMBEDDING, tensor_shapes
from tandem.core.device import CudaDevice
from tandem.core.plan import PENDING, SampleSpec, SequenceSlice, StepPlan
from tandem.core.sampling_params import SamplingParams
from tandem.engine.torch.engine import TorchEngine

LLAMA_1B = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "tie_word_embeddings": True,
    "eos_token_id": 128001,
}
DECODES = [(batch, context) for batch in (1, 8, 16, 32, 64) for context in (128, 1024, 2000)]
# Single tokens, of so much context each, beside a prompt of so many.
MIXES = [(0, 128), (1, 128), (64, 16), (64, 256), (64, 1024)]
MIXED_CONTEXT = 1024
SAMPLED_BATCH = 64
PREFILLS = [(1, 8192), (4, 2048), (16, 512)]
BLOCK_SIZE = 16
MAX_MODEL_LEN = 8320
NUM_BLOCKS = 64 * 2112 // BLOCK_SIZE
PLAIN = SamplingParams(max_tokens=1 << 20, seed=0)
GREEDY = SampleSpec(replace(PLAIN, temperature=0.0))
SAMPLINGS = {
    "likeliest": {"temperature": 0.0},
    "drawn": {},
    "top-k 50": {"top_k": 50},
    "top-p 0.9": {"temperature": 0.7, "top_p": 0.9},
    "min-p 0.05": {"min_p": 0.05},
    "repetition": {"temperature": 0.0, "repetition_penalty": 1.1},
    "log-probabilities": {"temperature": 0.0, "logprobs": 5},
}
# That penalties look at.
NUM_PENALISED = 500
KV_TOKENS = 8192
# What a transfer's thread reads or writes at a time: a worker's frame, and the whole of a layer.
FRAMES = (2048, 8192)
# A worker has one each way; more show what the link could take.
THREADS = (1, 4)
READ_BYTES = 1 << 32
COPY_BYTES = 1 << 28
PRODUCT = 8192
NEW_IDS = itertools.count()
PARTS = ("decode", "mixed", "sampling", "prefill", "kv")


def save_model(path: Path) -> ModelFolder:
    """Random weights, spread so that activations neither vanish nor grow."""
    (path / "config.json").write_text(json.dumps(LLAMA_1B))
    (path / "tokenizer.json").write_text("{}")
    torch.manual_seed(0)
    save_file(
        {
            name: random_weight(shape).to(torch.bfloat16).cpu()
            for name, shape in tensor_shapes(ModelConfig.from_json(LLAMA_1B)).items()
        },
        path / "model.safetensors",
    )
    return ModelFolder.open(path)


def random_weight(shape: tuple[int, ...]) -> torch.Tensor:
    if len(shape) == 1:
        return torch.ones(shape)
    return torch.randn(shape, device="cuda") * shape[-1] ** -0.5


def seconds(run: Callable[[], object], repeats: int) -> float:
    """The median time of a call and of all that it launches."""
    times = []
    for repeat in range(repeats + 2):
        torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        torch.cuda.synchronize()
        if repeat > 1:
            times.append(time.perf_counter() - start)
    return statistics.median(times)


def read_rate() -> float:
    """Bytes per second that are read, or read and written, whichever are more."""
    memory = torch.randn(READ_BYTES // 4, device="cuda")
    target = torch.empty_like(memory)
    reading = seconds(memory.amax, 10)
    copying = seconds(lambda: target.copy_(memory), 10)
    return max(READ_BYTES / reading, 2 * READ_BYTES / copying)


@dataclass(frozen=True)
class Limits:
    """Of this GPU: bytes per second of reading its memory and of copies out and in, FLOP/s."""

    read: float
    product: float
    copy_out: float
    copy_in: float

    @classmethod
    def measure(cls) -> Limits:
        left, right = (
            torch.randn(PRODUCT, PRODUCT, device="cuda", dtype=torch.bfloat16) for _ in range(2)
        )
        device = torch.empty(COPY_BYTES, dtype=torch.uint8, device="cuda")
        pinned = torch.empty(COPY_BYTES, dtype=torch.uint8, pin_memory=True)
        return cls(
            read=read_rate(),
            product=2 * PRODUCT**3 / seconds(lambda: left @ right, 20),
            copy_out=COPY_BYTES / seconds(lambda: pinned.copy_(device, non_blocking=True), 10),
            copy_in=COPY_BYTES / seconds(lambda: device.copy_(pinned, non_blocking=True), 10),
        )


def plan_of(batch: int, start: int, count: int) -> StepPlan:
    """The next tokens of as many sequences as no plan had before: an engine keeps tables by id."""
    num_blocks = -(-(start + count) // BLOCK_SIZE)
    token_ids = np.random.default_rng(0).integers(0, 128000, count).tolist()
    return StepPlan(
        0,
        tuple(
            SequenceSlice(
                next(NEW_IDS),
                token_ids,
                start,
                range(index * num_blocks, (index + 1) * num_blocks),
                GREEDY,
            )
            for index in range(batch)
        ),
    )


class Bench:
    """An engine, and what measures it."""

    def __init__(self, folder: ModelFolder, limits: Limits, repeats: int) -> None:
        self.engine = TorchEngine(
            folder,
            CudaDevice(0),
            dtype="bfloat16",
            block_size=BLOCK_SIZE,
            num_blocks=NUM_BLOCKS,
            max_model_len=MAX_MODEL_LEN,
        )
        self.engine.warm_up()
        self.config = folder.config
        self.limits = limits
        self.repeats = repeats
        shapes = tensor_shapes(folder.config)
        self.num_weights = sum(int(np.prod(shape)) for shape in shapes.values())
        self.num_head_weights = int(np.prod(shapes[EMBEDDING]))

    def decode(self, batch: int, context: int) -> GpuDecode:
        """Steps as a worker takes them: the next is launched before the last one's tokens come."""
        step = self.step_seconds(batch, context)
        plan = plan_of(batch, context - 1, 1)
        alone = self.launch_seconds(plan)
        graph = self.engine.runner.graphs.of(plan)  # type: ignore[attr-defined]
        replay = seconds(lambda: [graph.replay_again() for _ in range(10)], self.repeats // 3) / 10
        layout = self.engine.pool.layout
        num_bytes = 2 * self.num_weights + batch * context * layout.block_bytes / BLOCK_SIZE
        return GpuDecode(
            batch=batch,
            context=context,
            step_ms=1e3 * step,
            floor_ms=1e3 * num_bytes / self.limits.read,
            alone_ms=1e3 * alone,
            kernels_ms=1e3 * replay,
            products=graph.way.name,
        )

    def step_seconds(self, batch: int, context: int) -> float:
        count = 3 * self.repeats
        width = -(-(context + count) // BLOCK_SIZE)
        tables = {
            next(NEW_IDS): list(range(index * width, (index + 1) * width)) for index in range(batch)
        }
        under_way, ends = None, []
        for position in range(context - 1, context - 1 + count):
            num_blocks = position // BLOCK_SIZE + 1
            token_ids = (PENDING,) if under_way else (7,)
            slices = (
                SequenceSlice(sequence_id, token_ids, position, table[:num_blocks], GREEDY)
                for sequence_id, table in tables.items()
            )
            launched = self.engine.launch(StepPlan(position, tuple(slices)))
            if under_way:
                under_way.result()
                ends.append(time.perf_counter())
            under_way = launched
        return statistics.median(end - start for start, end in itertools.pairwise(ends))

    def mixed(self, batch: int, length: int) -> GpuMixed:
        """A prompt beside single tokens, which takes no graph."""
        singles = plan_of(batch, MIXED_CONTEXT - 1, 1).slices
        first = sum(len(each.block_table) for each in singles)
        blocks = range(first, first - -length // BLOCK_SIZE)
        prompt = SequenceSlice(next(NEW_IDS), [7] * length, 0, blocks, GREEDY)
        mixed = self.launch_seconds(StepPlan(0, (*singles, prompt)))
        alone = self.launch_seconds(StepPlan(0, (prompt,)))
        bare = self.launch_seconds(StepPlan(0, singles)) if singles else 0.0
        return GpuMixed(batch, length, 1e3 * mixed, 1e3 * bare, 1e3 * alone)

    def sampled(self, name: str) -> GpuSampled:
        """A batch of single tokens, all sampled alike."""
        params = replace(PLAIN, **SAMPLINGS[name])
        own = list(range(NUM_PENALISED))
        plan = plan_of(SAMPLED_BATCH, MIXED_CONTEXT - 1, 1)
        slices = (each._replace(sample=SampleSpec(params, 0, (), own)) for each in plan.slices)
        return GpuSampled(name, 1e3 * self.launch_seconds(StepPlan(0, tuple(slices))))

    def launch_seconds(self, plan: StepPlan) -> float:
        """A step alone, until its tokens are on the host."""
        return seconds(lambda: self.engine.launch(plan).result(), self.repeats)

    def prefill(self, batch: int, length: int) -> GpuPrefill:
        plan = plan_of(batch, 0, length)
        took = seconds(lambda: self.engine.launch(plan).result(), max(3, self.repeats // 3))
        config = self.config
        queries = config.num_heads * config.head_dim
        attention = 2 * length**2 * queries * (config.num_layers - 1)
        # Behind the KV of the last layer there is one row.
        of_one = self.num_head_weights + config.hidden_size * (
            queries + 3 * config.intermediate_size
        )
        products = 2 * (self.num_weights - of_one) * length
        rate = batch * (attention + products + 2 * of_one) / took
        return GpuPrefill(batch, length, 1e3 * took, rate / 1e12, self.limits.product / 1e12)

    def kv(self, frame_tokens: int, num_threads: int, is_staged: bool) -> GpuCopies:
        """All layers of a long prompt, in frames."""
        pool = self.engine.pool
        copies = KvCopies(pool, KV_TOKENS, frame_tokens)
        ways = copies.staged_ways() if is_staged else copies.message_ways()
        num_bytes = KV_TOKENS * pool.layout.block_bytes // BLOCK_SIZE
        with ThreadPoolExecutor(num_threads) as threads:

            def rate(way: Way) -> float:
                shares = [copies.regions[number::num_threads] for number in range(num_threads)]
                run = partial(run_ahead, way)
                return num_bytes / seconds(lambda: list(threads.map(run, shares)), 9)

            out, into = map(rate, ways)
        return GpuCopies(
            frame_kib=frame_tokens * pool.layout.token_bytes >> 10,
            threads=num_threads,
            is_staged=is_staged,
            out=out / 1e9,
            into=into / 1e9,
            limit_out=self.limits.copy_out / 1e9,
            limit_in=self.limits.copy_in / 1e9,
        )


def this_gpu() -> Machine:
    name = torch.cuda.get_device_name()
    return Machine(name.lower().replace(" ", "-"), f"one {name}")


def show_profile(run: Callable[[], object], repeats: int = 5) -> None:
    """Where the GPU's time goes, by kernel."""
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as found:
        for _ in range(repeats):
            run()
        torch.cuda.synchronize()
    kernels = [each for each in found.key_averages() if each.self_device_time_total]
    for each in sorted(kernels, key=lambda one: -one.self_device_time_total)[:24]:
        took = each.self_device_time_total / repeats
        print(f"{took:10.1f} us {each.count // repeats:5} x  {each.key[:90]}")
    print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--part", choices=PARTS, nargs="+")
    parser.add_argument("--profile", action="store_true", help="also say which kernels take it")
    add_keep(parser)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("there is no GPU here: nothing to measure")
    parts: Sequence[str] = arguments.part or PARTS
    limits = Limits.measure()
    with tempfile.TemporaryDirectory() as path:
        bench = Bench(save_model(Path(path)), limits, arguments.repeats)
    settings = (
        f"{bench.engine.model.numerics}, Llama 3.2 1B's shape; reads {limits.read / 1e12:.2f} TB/s,"
        f" multiplies {limits.product / 1e12:.0f} TFLOP/s, copies {limits.copy_out / 1e9:.1f} GB/s"
        f" out and {limits.copy_in / 1e9:.1f} in"
    )
    notes = Notes(arguments, this_gpu(), settings)
    if "decode" in parts:
        notes.table(GPU_DECODE, (bench.decode(*case) for case in DECODES))
    if "mixed" in parts:
        notes.table(GPU_MIXED, (bench.mixed(*case) for case in MIXES))
    if "sampling" in parts:
        notes.table(GPU_SAMPLED, (bench.sampled(name) for name in SAMPLINGS))
    if "prefill" in parts:
        notes.table(GPU_PREFILL, (bench.prefill(*case) for case in PREFILLS))
    if "kv" in parts:
        notes.table(
            GPU_COPIES,
            (bench.kv(*case) for case in itertools.product(FRAMES, THREADS, (True, False))),
        )
    if arguments.profile:
        for plan in (plan_of(1, 1023, 1), plan_of(32, 1023, 1), plan_of(1, 0, 8192)):
            show_profile(lambda plan=plan: bench.engine.launch(plan).result())


if __name__ == "__main__":
    main()
