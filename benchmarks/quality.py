"""What an engine's options cost in quality, against the same model in float32.

Perplexity: of a fixed text (data/alice.txt, public domain), in windows that each stand alone.
Agreement: how often the likeliest token is the reference's, after the reference's own tokens before
it: its greedy answers to data/prompts.txt. Perplexity of those answers besides.

All tokens go through the decode path, one of each sequence a step, which has the same bits as
prefill.

    .venv/bin/python benchmarks/quality.py [--dtype bfloat16] [--threads 2] [--arms plain kv-int8]
        [--keep]
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from performance.engine_tables import QUALITY, Quality
from performance.notes import Notes, add_keep
from performance.record import this_machine
from torch import Tensor

from tandem.artifacts.model_folder import ModelFolder
from tandem.artifacts.resolve import resolve
from tandem.artifacts.tokenizer import Tokenizer
from tandem.core.device import CpuDevice
from tandem.core.kv import INT8
from tandem.core.plan import SampleSpec, SequenceSlice, StepPlan
from tandem.core.quantization import Quantization
from tandem.core.sampling_params import SamplingParams
from tandem.engine.torch.engine import TorchEngine

DATA = Path(__file__).parent / "data"
WINDOW = 256
ANSWER = 64
BLOCK_SIZE = 16
BLOCKS_EACH = WINDOW // BLOCK_SIZE
GREEDY = SampleSpec(SamplingParams(max_tokens=1, seed=0, temperature=0.0))


@dataclass(frozen=True)
class Arm:
    """An engine to judge: its name in the table, and what it is made with besides the model."""

    name: str
    options: Mapping[str, Any]


# What each arm has besides the type that all compute in.
OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "plain": {},
    "int8": {"quantization": Quantization.INT8},
    "int4": {"quantization": Quantization.INT4},
    "kv-int8": {"kv_cache_dtype": INT8},
    "int4+kv-int8": {"quantization": Quantization.INT4, "kv_cache_dtype": INT8},
}


def arms_of(dtype: str, names: Sequence[str]) -> list[Arm]:
    return [Arm(f"{name}, {dtype}", {"dtype": dtype, **OPTIONS[name]}) for name in names]


@dataclass
class Scored:
    """Tokens that were foreseen, and how well."""

    num_tokens: int = 0
    num_first: int = 0
    log_likelihood: float = 0.0

    def add(self, logits: Tensor, tokens: Sequence[int]) -> None:
        """`logits` [rows, vocab_size], and what came next in each row."""
        found = torch.log_softmax(logits.double(), -1)[range(len(tokens)), tokens]
        self.log_likelihood += float(found.sum())
        self.num_first += int((logits.argmax(-1) == torch.tensor(tokens)).sum())
        self.num_tokens += len(tokens)

    @property
    def perplexity(self) -> float:
        return math.exp(-self.log_likelihood / self.num_tokens)

    @property
    def agreement(self) -> float:
        return self.num_first / self.num_tokens


@dataclass
class Bench:
    """An engine, and the logits of its last step."""

    folder: ModelFolder
    num_sequences: int
    options: Mapping[str, Any]
    logits: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.engine = TorchEngine(
            self.folder,
            CpuDevice(),
            block_size=BLOCK_SIZE,
            num_blocks=self.num_sequences * BLOCKS_EACH,
            max_model_len=WINDOW,
            observer=self._observe,
            **self.options,
        )

    def _observe(self, plan: StepPlan, logits: Tensor) -> None:
        self.logits = logits

    def walk(self, sequences: Sequence[Sequence[int]]) -> Iterator[tuple[int, list[int], Tensor]]:
        """Position by position: which sequences have a token there, and the logits [sequences,
        vocab_size] after it. A sequence may grow meanwhile."""
        for position in range(WINDOW):
            rows = [row for row, each in enumerate(sequences) if position < len(each)]
            if not rows:
                return
            plan = StepPlan(position, tuple(self._slice(sequences, row, position) for row in rows))
            self.engine.launch(plan).result()
            yield position, rows, self.logits

    def _slice(self, sequences: Sequence[Sequence[int]], row: int, position: int) -> SequenceSlice:
        first, count = row * BLOCKS_EACH, position // BLOCK_SIZE + 1
        token = sequences[row][position]
        return SequenceSlice(row, [token], position, range(first, first + count), GREEDY)

    def answers(self, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        """Each prompt, and the greedy tokens after it."""
        sequences = [list(each) for each in prompts]
        for position, rows, logits in self.walk(sequences):
            for row, token in zip(rows, logits.argmax(-1).tolist(), strict=True):
                length = len(sequences[row])
                if position == length - 1 and length < len(prompts[row]) + ANSWER:
                    sequences[row].append(token)
        return sequences

    def score(self, sequences: Sequence[Sequence[int]], starts: Sequence[int]) -> Scored:
        """Of the tokens from each start on."""
        scored = Scored()
        for position, rows, logits in self.walk(sequences):
            asked = [
                (index, sequences[row][position + 1])
                for index, row in enumerate(rows)
                if starts[row] <= position + 1 < len(sequences[row])
            ]
            scored.add(logits[[index for index, _ in asked]], [token for _, token in asked])
        return scored


@contextmanager
def bench(folder: ModelFolder, num_sequences: int, options: Mapping[str, Any]) -> Iterator[Bench]:
    made = Bench(folder, num_sequences, options)
    yield made
    made.engine.close()


def windows_of(tokenizer: Tokenizer) -> list[list[int]]:
    tokens = tokenizer.encode((DATA / "alice.txt").read_text())
    return [tokens[start : start + WINDOW] for start in range(0, len(tokens), WINDOW)]


def prompts_of(tokenizer: Tokenizer) -> list[list[int]]:
    prompts = []
    for line in (DATA / "prompts.txt").read_text().splitlines():
        text = tokenizer.apply_chat_template([{"role": "user", "content": line}])
        prompts.append(tokenizer.encode(text))
    return prompts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dtype", default="bfloat16", help="of all but the reference")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--arms", nargs="+", choices=OPTIONS, default=list(OPTIONS))
    add_keep(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    folder = resolve("default")
    tokenizer = folder.tokenizer()
    windows, prompts = windows_of(tokenizer), prompts_of(tokenizer)
    starts = [len(each) for each in prompts]
    most = max(len(windows), len(prompts))
    with bench(folder, most, {"dtype": "float32"}) as reference:
        answers = reference.answers(prompts)
        text = reference.score(windows, [1] * len(windows))
        own = reference.score(answers, starts)
        numerics = reference.engine.model.numerics
    asked = f"{text.num_tokens:,} tokens of text, {own.num_tokens:,} of {len(prompts)} answers"
    notes = Notes(arguments, this_machine(), f"{folder.name}, {asked}; reference: {numerics}")

    def judged(arm: Arm) -> Quality:
        with bench(folder, most, arm.options) as each:
            found = each.score(windows, [1] * len(windows))
            agreed = each.score(answers, starts)
        ratio = found.perplexity / text.perplexity
        return Quality(arm.name, found.perplexity, ratio, agreed.agreement, agreed.perplexity)

    reference_row = Quality("float32", text.perplexity, 1.0, 1.0, own.perplexity)
    arms = arms_of(arguments.dtype, arguments.arms)
    notes.table(QUALITY, chain([reference_row], map(judged, arms)))


if __name__ == "__main__":
    main()
