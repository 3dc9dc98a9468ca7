"""What it costs that a token's bits do not depend on batch, chunking or threads.

Products: ours, each output one chain of sums along k, beside oneDNN's, which orders its sums as it
likes for the shape, on the model's own shapes. Attention: ranges of 512 positions that are merged
in order, beside the same kernels built to split as this batch and these threads would like it
(one range for each thread, or one in all): the fastest of these counts. All arms of a row are
measured in turn, medians are shown. Takes a C++ compiler.

    .venv/bin/python benchmarks/same_bits.py [--threads 1 2] [--repeats 7] [--dtype bfloat16]
        [--keep]
"""

from __future__ import annotations

import argparse
import ctypes
import subprocess
import sys
from collections.abc import Callable, Mapping
from ctypes import CDLL
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from engine import Products, engine_of, medians, medians_of, name_of, plan_of, repeats_of, rows_of
from performance.engine_tables import (
    SAME_ATTENTION,
    SAME_PRODUCTS,
    SameAttention,
    SameProducts,
)
from performance.notes import Notes, add_keep
from performance.record import this_machine

from tandem.core.quantization import Quantization
from tandem.engine.torch.native_runner import NativeRunner
from tandem.engine.torch.threads import team
from tandem.native import structs
from tandem.native.library import FOLDER, Kernels, best, library_of

ROWS = [(1,), (8,), (32,), (512,)]
# Sequences, the position of their first new token, and how many there are of these.
ATTENTION = [(1, 511, 1), (1, 1999, 1), (8, 1999, 1), (32, 1999, 1), (1, 0, 1024)]
FIXED_RANGE = 512
ONE_RANGE = 1 << 20
FREE_RANGES = (1024, ONE_RANGE)
RANGE_LINE = "constexpr int64_t RANGE = {};"


def built_with(length: int, folder: Path) -> CDLL:
    """The kernels that this processor takes, with ranges of another length; built unless they lie
    in the folder."""
    sources = folder / f"range-{length}"
    library, instructions = sources / "kernels.so", best().instructions
    if library.exists():
        return Kernels(library, instructions).functions
    sources.mkdir(parents=True)
    for path in (*FOLDER.glob("*.h"), *FOLDER.glob("*.cpp")):
        text = path.read_text()
        if path.name == "attention.h":
            fixed = RANGE_LINE.format(FIXED_RANGE)
            assert fixed in text, "the kernels have no ranges of this length any more"
            text = text.replace(fixed, RANGE_LINE.format(length))
        (sources / path.name).write_text(text)
    # The plain ones have no flags of their own.
    own = FOLDER.glob(f"{library_of(instructions)}.flags")
    flags = [f"@{path}" for path in (FOLDER / "common.flags", *own)]
    command = ["g++", "-shared", "-fPIC", *flags, "-w", '-DTANDEM_BUILD="benchmark"']
    subprocess.run([*command, str(sources / "kernels.cpp"), "-o", str(library)], check=True)
    return Kernels(library, instructions).functions


def attention(functions: CDLL, runner: NativeRunner, step: structs.Step) -> Callable[[], None]:
    """Attention of a step, all layers."""

    def run() -> None:
        step.team = team()
        for layer in range(len(runner.model.layers)):
            functions.tandem_attention(
                runner.is_bfloat16,
                ctypes.byref(runner.model.struct),
                ctypes.byref(step),
                layer,
            )

    return run


def same_products(products: Products, repeats: int, num_rows: int) -> SameProducts:
    num_logits = 1 if num_rows == max(ROWS)[0] else num_rows
    found = medians(
        {
            "ours": products.ours(num_rows, num_logits),
            "onednn": products.onednn(num_rows, num_logits),
        },
        repeats,
    )
    return SameProducts(torch.get_num_threads(), num_rows, found["ours"], found["onednn"])


def same_attention(
    runner: NativeRunner,
    kernels: Mapping[int, CDLL],
    repeats: int,
    batch: int,
    start: int,
    count: int,
) -> SameAttention:
    inputs = runner.inputs.build(plan_of(batch, start, count))
    step = runner.buffers.step(inputs)
    arms = {length: attention(each, runner, step) for length, each in kernels.items()}
    found = medians(arms, repeats_of(repeats, count))
    free = min(FREE_RANGES, key=found.__getitem__)
    return SameAttention(
        threads=torch.get_num_threads(),
        step=name_of(batch, start, count),
        fixed_ms=found[FIXED_RANGE],
        free_ms=found[free],
        free_range=0 if free == ONE_RANGE else free,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--kernels", type=Path, help="folder to build in, and to keep")
    add_keep(parser)
    arguments = parser.parse_args()
    engine = engine_of(arguments.dtype, Quantization.NONE)
    runner = engine.runner
    if not isinstance(runner, NativeRunner):
        sys.exit("the native kernels are not here: nothing to measure")
    products, repeats = Products(runner), arguments.repeats
    with TemporaryDirectory() as folder:
        kernels = {
            length: built_with(length, arguments.kernels or Path(folder))
            for length in (FIXED_RANGE, *FREE_RANGES)
        }
        model = f"{engine.model.name}, {engine.model.numerics}"
        notes = Notes(arguments, this_machine(), f"{model}; {medians_of(repeats)}")
        by_rows = partial(same_products, products, repeats)
        notes.table(SAME_PRODUCTS, rows_of(by_rows, ROWS, arguments.threads))
        by_steps = partial(same_attention, runner, kernels, repeats)
        notes.table(SAME_ATTENTION, rows_of(by_steps, ATTENTION, arguments.threads))


if __name__ == "__main__":
    main()
