"""What a step of the torch engine costs on this CPU, part by part, and the floor beneath it.

The floor of a decode step is its matrix products alone, at that batch, by the faster of our packed
weights and oneDNN's, and the bytes of its KV at the best rate at which this machine reads memory;
that of a prefill is its products alone, of which those behind the KV of the last layer have one row
of each prompt. Quantised weights stand beside those of the same dtype. All arms of a row are
measured in turn, and medians are shown.

    .venv/bin/python benchmarks/engine.py [--threads 1 2] [--repeats 7] [--dtype bfloat16] \
        [--kv-cache-dtype int8] [--keep]
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from performance.engine_tables import (
    DECODE,
    PREFILL,
    QUANTIZED,
    DecodeStep,
    Prefill,
    QuantizedStep,
)
from performance.notes import Notes, add_keep
from performance.record import this_machine
from performance.table import Row

from tandem.artifacts.resolve import resolve
from tandem.artifacts.weight_counts import WeightCounts
from tandem.core.device import CpuDevice
from tandem.core.kv import ITEM_SIZES
from tandem.core.plan import SampleSpec, SequenceSlice, StepPlan
from tandem.core.quantization import Quantization
from tandem.core.sampling_params import SamplingParams
from tandem.engine.torch.engine import TorchEngine
from tandem.engine.torch.native_inputs import NativeInputBuilder
from tandem.engine.torch.native_runner import NativeRunner
from tandem.engine.torch.packed_weights import aligned_empty
from tandem.engine.torch.sampler import SampleRow, sample
from tandem.engine.torch.threads import team
from tandem.native import structs
from tandem.native.library import best

DECODES = [(batch, context) for batch in (1, 8, 32) for context in (128, 512, 2000)]
PREFILLS = [(1, 512), (4, 512), (1, 2000)]
# Sequences, the position of their first new token, and how many there are of these.
QUANTIZED_STEPS = [(1, 127, 1), (8, 127, 1), (32, 127, 1), (1, 0, 512)]
GREEDY = SampleSpec(SamplingParams(max_tokens=1, seed=0, temperature=0.0))
PARTS = ("decode", "prefill", "quantized")
BLOCK_SIZE = 16
NUM_BLOCKS = 32 * 2016 // BLOCK_SIZE
READ_BYTES = 1 << 28
READ = "read"

Arms = dict[str, Callable[[], None]]


def medians(arms: Arms, repeats: int) -> dict[str, float]:
    """Milliseconds of each, run in turn; of reading memory, which is a limit, the least."""
    times: dict[str, list[float]] = {name: [] for name in arms}
    for repeat in range(repeats + 1):
        for name, run in arms.items():
            start = time.perf_counter()
            run()
            if repeat:
                times[name].append(1e3 * (time.perf_counter() - start))
    return {
        name: min(each) if name == READ else statistics.median(each) for name, each in times.items()
    }


class Products:
    """The matrix products of a step alone, on weights of the model's shapes."""

    def __init__(self, runner: NativeRunner) -> None:
        self._functions = best().functions
        self._is_bfloat16 = runner.is_bfloat16
        self._dtype = torch.bfloat16 if self._is_bfloat16 else torch.float32
        model = runner.model
        self._linears = [
            linear
            for layer in model.layers
            for linear in (layer.qkv, layer.output, layer.gate_up, layer.down)
        ]
        self._linears.append(model.struct.lm_head)

    def _calls(self, num_rows: int, num_logits: int) -> list[tuple[structs.Linear, int]]:
        """A step's products, and of how many rows: few behind the KV of the last layer."""
        return [
            *((each, num_rows) for each in self._linears[:-4]),
            *((each, num_logits) for each in self._linears[-4:]),
        ]

    def ours(self, num_rows: int, num_logits: int) -> Callable[[], None]:
        """By the kernels, on the engine's own weights."""
        calls = self._calls(num_rows, num_logits)
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
        for each, count in self._calls(max(num_rows, 2), max(num_logits, 2)):
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
        asked = runner.buffers.asked(step, inputs.flat)
        model = (runner.is_bfloat16, ctypes.byref(runner.model.struct))
        num_layers = len(runner.model.layers)
        logits = torch.zeros(len(inputs.flat.logit_rows), self.engine.model.vocab_size)
        rows = [SampleRow(GREEDY, 1)] * len(logits)

        def every_layer(name: str, last: structs.Step) -> Callable[[], None]:
            function = getattr(functions, f"tandem_{name}")

            def run() -> None:
                step.team = last.team = team()
                for layer in range(num_layers):
                    its = step if layer < num_layers - 1 else last
                    function(*model, ctypes.byref(its), layer)

            return run

        return {
            "step": lambda: void(self.engine.launch(plan).result()),
            "attention": every_layer("attention", asked),
            "before": every_layer("before_attention", step),
            "after": every_layer("after_attention", asked),
            "logits": lambda: functions.tandem_logits(
                *model,
                ctypes.byref(asked),
                inputs.flat.logit_rows.ctypes.data,
                len(logits),
                logits.data_ptr(),
            ),
            "inputs": lambda: void(runner.inputs.build(plan)),
            "argmax": lambda: void(sample(logits, rows)),
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
            READ: self.read,
        }
        return medians(arms, repeats_of(self.repeats, count))

    def decode(self, batch: int, context: int) -> DecodeStep:
        found = self.measure(batch, context - 1, 1)
        layout = self.engine.pool.layout
        rate = READ_BYTES / found[READ]
        reading = batch * context * layout.block_bytes / layout.block_size / rate
        return DecodeStep(
            threads=torch.get_num_threads(),
            batch=batch,
            context=context,
            step_ms=found["step"],
            floor_ms=min(found["ours"], found["onednn"]) + reading,
            ours_ms=found["ours"],
            onednn_ms=found["onednn"],
            attention_ms=found["attention"],
            reading_ms=reading,
            other_ms=other_ms(found),
            inputs_ms=found["inputs"],
            argmax_ms=found["argmax"],
            read_gbs=rate / 1e6,
        )

    def prefill(self, batch: int, length: int) -> Prefill:
        found = self.measure(batch, 0, length)
        return Prefill(
            threads=torch.get_num_threads(),
            batch=batch,
            length=length,
            prefill_ms=found["step"],
            products_ms=min(found["ours"], found["onednn"]),
            ours_ms=found["ours"],
            onednn_ms=found["onednn"],
            attention_ms=found["attention"],
            other_ms=other_ms(found),
        )


def other_ms(found: Mapping[str, float]) -> float | None:
    """Of what is neither a product nor attention; None where products alone took longer."""
    other = found["before"] + found["after"] + found["logits"] - found["ours"]
    return other if other >= 0 else None


def quantized(
    engines: Mapping[Quantization, TorchEngine], bench: Bench, batch: int, start: int, count: int
) -> QuantizedStep:
    """A step with each kind of weights, and how long reading each kind takes at the rate at which
    this machine reads memory."""
    plan = plan_of(batch, start, count)

    def step(engine: TorchEngine) -> None:
        engine.launch(plan).result()

    arms: Arms = {kind: partial(step, engine) for kind, engine in engines.items()}
    found = medians(arms | {READ: bench.read}, repeats_of(bench.repeats, count))
    rate = READ_BYTES / found[READ]
    dtype = "bfloat16" if bench.runner.is_bfloat16 else "float32"
    plain, int8, int4 = (weight_bytes(dtype, kind) / rate for kind in engines)
    return QuantizedStep(
        threads=torch.get_num_threads(),
        step=name_of(batch, start, count),
        plain_ms=found[Quantization.NONE],
        int8_ms=found[Quantization.INT8],
        int4_ms=found[Quantization.INT4],
        reading_plain_ms=plain,
        reading_int8_ms=int8,
        reading_int4_ms=int4,
    )


def name_of(batch: int, start: int, count: int) -> str:
    return f"prefill {batch} x {count}" if count > 1 else f"decode {batch} x {start + 1}"


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


def medians_of(repeats: int) -> str:
    return f"medians of {repeats}, of prompts {repeats_of(repeats, 2)}"


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--kv-cache-dtype", default="auto")
    parser.add_argument("--quick", action="store_true", help="one context only")
    parser.add_argument("--parts", choices=PARTS, nargs="+", default=PARTS)
    add_keep(parser)
    arguments = parser.parse_args()
    engine = engine_of(arguments.dtype, Quantization.NONE, arguments.kv_cache_dtype)
    if not isinstance(engine.runner, NativeRunner):
        sys.exit("the native kernels are not here: nothing to measure")
    memory = aligned_empty(READ_BYTES)
    memory[:] = 1
    products = Products(engine.runner)
    bench = Bench(engine, engine.runner, products, memory, arguments.repeats)
    model = f"{engine.model.name}, {engine.model.numerics}"
    notes = Notes(arguments, this_machine(), f"{model}; ms, {medians_of(arguments.repeats)}")
    if "decode" in arguments.parts:
        cases = DECODES[1::3] if arguments.quick else DECODES
        notes.table(DECODE, rows_of(bench.decode, cases, arguments.threads))
    if "prefill" in arguments.parts:
        notes.table(PREFILL, rows_of(bench.prefill, PREFILLS, arguments.threads))
    if "quantized" in arguments.parts:
        engines = {Quantization.NONE: engine} | {
            kind: engine_of(arguments.dtype, kind)
            for kind in (Quantization.INT8, Quantization.INT4)
        }
        row = partial(quantized, engines, bench)
        notes.table(QUANTIZED, rows_of(row, QUANTIZED_STEPS, arguments.threads))


def rows_of(
    row: Callable[..., Row], cases: Iterable[tuple[int, ...]], threads: Iterable[int]
) -> Iterator[Row]:
    for count in threads:
        torch.set_num_threads(count)
        for case in cases:
            yield row(*case)


if __name__ == "__main__":
    main()
