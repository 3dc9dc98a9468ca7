"""What a step of the torch engine costs on this CPU, part by part, and the floor beneath it.

The floor of a decode step is its matrix products alone, at that batch, by the faster of our packed
weights and oneDNN's, and the bytes of its KV at the rate at which this machine reads memory; that
of a prefill is its products alone. Quantised weights stand beside those of the same dtype. All arms
of a row are measured in turn, and medians are shown.

    .venv/bin/python benchmarks/engine.py [--threads 1 2] [--repeats 9] [--dtype bfloat16] \
        [--kv-cache-dtype int8]
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from tandem.artifacts.resolve import resolve
from tandem.artifacts.weight_counts import WeightCounts
from tandem.bench.markdown import markdown_lines
from tandem.core.device import CpuDevice
from tandem.core.kv import ITEM_SIZES
from tandem.core.plan import SampleSpec, SequenceSlice, StepPlan
from tandem.core.quantization import Quantization
from tandem.core.sampling_params import SamplingParams
from tandem.engine.torch.engine import TorchEngine
from tandem.engine.torch.native_inputs import NativeInputBuilder
from tandem.engine.torch.native_runner import NativeRunner
from tandem.engine.torch.packed_weights import aligned_empty
from tandem.engine.torch.threads import team
from tandem.native import structs
from tandem.native.library import best

DECODE = [(batch, context) for batch in (1, 8, 32) for context in (128, 512, 2000)]
PREFILL = [(1, 512), (4, 512), (1, 2000)]
# Sequences, the position of their first new token, and how many there are of these.
QUANTIZED = [(1, 127, 1), (8, 127, 1), (32, 127, 1), (1, 0, 512)]
GREEDY = SampleSpec(SamplingParams(max_tokens=1, seed=0, temperature=0.0))
DECODE_HEAD = (
    "Threads",
    "Batch x context",
    "Step",
    "Floor",
    "Step / floor",
    "Products, ours / oneDNN",
    "Attention / reading its KV",
    "Norms, rotary, SiLU",
    "Building inputs, argmax",
    "Read GB/s",
)
PREFILL_HEAD = (
    "Threads",
    "Prompts x tokens",
    "Prefill",
    "Products alone / prefill",
    "Products, ours / oneDNN",
    "Attention",
    "Norms, rotary, SiLU",
)
PARTS = ("decode", "prefill", "quantized")
QUANTIZED_HEAD = ("Threads", "Step", "As they are", "int8", "/", "int4", "/", "Reading them all")
BLOCK_SIZE = 16
NUM_BLOCKS = 32 * 2016 // BLOCK_SIZE
READ_BYTES = 1 << 28

Arms = dict[str, Callable[[], None]]


def medians(arms: Arms, repeats: int) -> dict[str, float]:
    """Milliseconds of each, run in turn."""
    times: dict[str, list[float]] = {name: [] for name in arms}
    for repeat in range(repeats + 1):
        for name, run in arms.items():
            start = time.perf_counter()
            run()
            if repeat:
                times[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(each) for name, each in times.items()}


class Products:
    """The matrix products of a step alone, on weights of the model's shapes."""

    def __init__(self, runner: NativeRunner) -> None:
        self._functions = best().functions
        self._is_bfloat16 = runner.is_bfloat16
        self._dtype = torch.bfloat16 if self._is_bfloat16 else torch.float32
        model = runner.model
        self._layers = [
            linear
            for layer in model.layers
            for linear in (layer.qkv, layer.output, layer.gate_up, layer.down)
        ]
        self._head = model.struct.lm_head

    def ours(self, num_rows: int, num_logits: int) -> Callable[[], None]:
        """By the kernels, on the engine's own weights."""
        calls = [(each, num_rows) for each in self._layers] + [(self._head, num_logits)]
        rows = torch.randn(num_rows, max(self._k(each) for each, _ in calls)).to(self._dtype)
        output = torch.empty(max(count * each.n for each, count in calls))

        def run() -> None:
            group = team()
            for each, count in calls:
                self._functions.tandem_linear(
                    self._is_bfloat16,
                    ctypes.byref(group),
                    ctypes.byref(each),
                    rows.data_ptr(),
                    count,
                    output.data_ptr(),
                )

        return run

    def onednn(self, num_rows: int, num_logits: int) -> Callable[[], None]:
        """By torch's oneDNN on weights packed for this many rows; by ours where it has no kernels
        for this processor."""
        if self._is_bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            return self.ours(num_rows, num_logits)
        calls = []
        # One row takes another, slower kernel.
        counts = [(each, max(num_rows, 2)) for each in self._layers]
        for each, count in [*counts, (self._head, max(num_logits, 2))]:
            weight = torch.zeros(each.n, self._k(each), dtype=self._dtype)
            packed = torch.ops.mkldnn._reorder_linear_weight(weight, count)
            calls.append((torch.zeros(count, self._k(each), dtype=self._dtype), packed))

        def run() -> None:
            for rows, packed in calls:
                torch.ops.mkldnn._linear_pointwise(rows, packed, None, "none", [], "")

        return run

    def _k(self, linear: structs.Linear) -> int:
        return linear.depth * (2 if self._is_bfloat16 else 1)


@dataclass
class Bench:
    """An engine, and what measures it."""

    engine: TorchEngine
    runner: NativeRunner
    products: Products
    memory: np.ndarray
    repeats: int

    def parts(self, plan: StepPlan) -> Arms:
        """The step whole, and the same by its calls."""
        runner, functions = self.runner, best().functions
        inputs = NativeInputBuilder(BLOCK_SIZE).build(plan)
        step = runner.buffers.step(inputs)
        arguments = (runner.is_bfloat16, ctypes.byref(runner.model.struct), ctypes.byref(step))
        logits = torch.empty(len(inputs.flat.logit_rows), self.engine.model.vocab_size)

        def every_layer(name: str) -> Callable[[], None]:
            function = getattr(functions, f"tandem_{name}")

            def run() -> None:
                step.team = team()
                for layer in range(len(runner.model.layers)):
                    function(*arguments, layer)

            return run

        return {
            "step": lambda: void(self.engine.launch(plan).result()),
            "attention": every_layer("attention"),
            "before": every_layer("before_attention"),
            "after": every_layer("after_attention"),
            "logits": lambda: functions.tandem_logits(
                *arguments, inputs.flat.logit_rows.ctypes.data, len(logits), logits.data_ptr()
            ),
            "inputs": lambda: void(runner.inputs.build(plan)),
            "argmax": lambda: void(logits.argmax(dim=-1)),
        }

    def read(self) -> None:
        group = team()
        best().functions.tandem_read(
            ctypes.byref(group), self.memory.ctypes.data, self.memory.nbytes
        )

    def measure(self, batch: int, start: int, count: int) -> dict[str, float]:
        plan = plan_of(batch, start, count)
        arms = self.parts(plan) | {
            "ours": self.products.ours(batch * count, batch),
            "onednn": self.products.onednn(batch * count, batch),
            "read": self.read,
        }
        return medians(arms, repeats_of(self.repeats, count))

    def decode_row(self, batch: int, context: int) -> list[str]:
        found = self.measure(batch, context - 1, 1)
        layout = self.engine.pool.layout
        kv_bytes = batch * context * layout.block_bytes / layout.block_size
        rate = READ_BYTES / found["read"]
        products = min(found["ours"], found["onednn"])
        floor = products + kv_bytes / rate
        other = found["before"] + found["after"] + found["logits"] - found["ours"]
        return [
            str(torch.get_num_threads()),
            f"{batch} x {context}",
            f"{found['step']:.1f}",
            f"{floor:.1f}",
            f"**{found['step'] / floor:.2f}**",
            f"{found['ours']:.1f} / {found['onednn']:.1f}",
            f"{found['attention']:.1f} / {kv_bytes / rate:.1f}",
            f"{other:.1f}",
            f"{found['inputs']:.2f}, {found['argmax']:.2f}",
            f"{rate / 1e6:.0f}",
        ]

    def prefill_row(self, batch: int, length: int) -> list[str]:
        found = self.measure(batch, 0, length)
        products = min(found["ours"], found["onednn"])
        other = found["before"] + found["after"] + found["logits"] - found["ours"]
        return [
            str(torch.get_num_threads()),
            f"{batch} x {length}",
            f"{found['step']:.0f}",
            f"**{products / found['step']:.0%}**",
            f"{found['ours']:.0f} / {found['onednn']:.0f}",
            f"{found['attention']:.0f}",
            f"{other:.0f}",
        ]


def quantized_row(
    engines: Mapping[Quantization, TorchEngine], bench: Bench, batch: int, start: int, count: int
) -> list[str]:
    """A step with each kind of weights, and how long reading each kind takes at the rate at which
    this machine reads memory."""
    plan = plan_of(batch, start, count)

    def step(engine: TorchEngine) -> None:
        engine.launch(plan).result()

    arms: Arms = {kind: partial(step, engine) for kind, engine in engines.items()}
    found = medians(arms | {"read": bench.read}, repeats_of(bench.repeats, count))
    plain = found[Quantization.NONE]
    row = [str(torch.get_num_threads())]
    row.append(f"prefill {batch} x {count}" if count > 1 else f"decode {batch} x {start + 1}")
    row.append(f"{plain:.1f}")
    for kind in (Quantization.INT8, Quantization.INT4):
        row += [f"{found[kind]:.1f}", f"**{found[kind] / plain:.2f}**"]
    rate = READ_BYTES / found["read"]
    dtype = "bfloat16" if bench.runner.is_bfloat16 else "float32"
    row.append(" / ".join(f"{weight_bytes(dtype, kind) / rate:.1f}" for kind in engines))
    return row


def weight_bytes(dtype: str, kind: Quantization) -> int:
    """Of what a step multiplies by: not the embedding, but where that is the head."""
    counts = WeightCounts.of(resolve("default").config)
    is_head = not counts.head and kind is Quantization.NONE
    looked_up = 0 if is_head else counts.embedding * ITEM_SIZES[dtype]
    return counts.num_bytes(dtype, kind) - looked_up


def plan_of(batch: int, start: int, count: int) -> StepPlan:
    """So many sequences, each with `count` tokens from position `start` on."""
    blocks = -(-(start + count) // BLOCK_SIZE)
    return StepPlan(
        0,
        tuple(
            SequenceSlice(
                index, [7] * count, start, range(index * blocks, (index + 1) * blocks), GREEDY
            )
            for index in range(batch)
        ),
    )


def repeats_of(repeats: int, count: int) -> int:
    return repeats if count == 1 else max(3, repeats // 3)


def engine_of(dtype: str, quantization: Quantization, kv_cache_dtype: str = "auto") -> TorchEngine:
    return TorchEngine(
        resolve("default"),
        CpuDevice(),
        dtype=dtype,
        kv_cache_dtype=kv_cache_dtype,
        block_size=BLOCK_SIZE,
        num_blocks=NUM_BLOCKS,
        max_model_len=2048,
        quantization=quantization,
    )


def void(_: object) -> None: ...


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    for line in markdown_lines(head, rows):
        print(line, flush=True)
    print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--kv-cache-dtype", default="auto")
    parser.add_argument("--quick", action="store_true", help="one context only")
    parser.add_argument("--parts", choices=PARTS, nargs="+", default=PARTS)
    arguments = parser.parse_args()
    engine = engine_of(arguments.dtype, Quantization.NONE, arguments.kv_cache_dtype)
    if not isinstance(engine.runner, NativeRunner):
        sys.exit("the native kernels are not here: nothing to measure")
    memory = aligned_empty(READ_BYTES)
    memory[:] = 1
    products = Products(engine.runner)
    bench = Bench(engine, engine.runner, products, memory, arguments.repeats)
    print(f"{engine.model.name}, {engine.model.numerics}, milliseconds\n")
    if "decode" in arguments.parts:
        cases = DECODE[1::3] if arguments.quick else DECODE
        table(DECODE_HEAD, rows_of(bench.decode_row, cases, arguments.threads))
    if "prefill" in arguments.parts:
        table(PREFILL_HEAD, rows_of(bench.prefill_row, PREFILL, arguments.threads))
    if "quantized" in arguments.parts:
        engines = {Quantization.NONE: engine} | {
            kind: engine_of(arguments.dtype, kind)
            for kind in (Quantization.INT8, Quantization.INT4)
        }
        row = partial(quantized_row, engines, bench)
        table(QUANTIZED_HEAD, rows_of(row, QUANTIZED, arguments.threads))


def rows_of(
    row: Callable[..., list[str]], cases: Iterable[tuple[int, ...]], threads: Iterable[int]
) -> Iterator[list[str]]:
    for count in threads:
        torch.set_num_threads(count)
        for case in cases:
            yield row(*case)


if __name__ == "__main__":
    main()
