"""What the engine's steps take on a CPU, and the limits beside them: milliseconds."""

from __future__ import annotations

from dataclasses import dataclass

from performance.table import Bound, Goal, Table, number, numbers


@dataclass(frozen=True)
class DecodeStep:
    """The floor is the products alone, by the faster of ours and oneDNN's, and the KV's bytes at
    the rate of a streaming read. What was not noted is None."""

    threads: int
    batch: int
    context: int
    step_ms: float
    floor_ms: float
    ours_ms: float | None = None
    onednn_ms: float | None = None
    attention_ms: float | None = None
    reading_ms: float | None = None
    other_ms: float | None = None
    inputs_ms: float | None = None
    argmax_ms: float | None = None
    read_gbs: float | None = None

    @property
    def by_floor(self) -> float:
        return self.step_ms / self.floor_ms


@dataclass(frozen=True)
class Prefill:
    """The limit are the products alone."""

    threads: int
    batch: int
    length: int
    prefill_ms: float
    products_ms: float
    ours_ms: float | None = None
    onednn_ms: float | None = None
    attention_ms: float | None = None
    other_ms: float | None = None

    @property
    def share(self) -> float:
        return self.products_ms / self.prefill_ms


@dataclass(frozen=True)
class QuantizedStep:
    """The same step with each kind of weights, and what reading these takes at least."""

    threads: int
    step: str
    plain_ms: float
    int8_ms: float
    int4_ms: float
    reading_plain_ms: float | None = None
    reading_int8_ms: float | None = None
    reading_int4_ms: float | None = None


@dataclass(frozen=True)
class SameProducts:
    """Products whose sums have one order, beside oneDNN's, which have not."""

    threads: int
    rows: int
    ours_ms: float
    onednn_ms: float


@dataclass(frozen=True)
class SameAttention:
    """Attention on fixed ranges of positions, beside the faster of two other ways to split;
    `free_range` is its range, 0 for one in all."""

    threads: int
    step: str
    fixed_ms: float
    free_ms: float
    free_range: int


@dataclass(frozen=True)
class HostStep:
    """Microseconds: the next plan, its check and its inputs (made anew, as the batch lasts, as one
    leaves and one joins), and what follows a step."""

    batch: int
    context: int
    plan_us: float
    check_anew_us: float
    check_us: float
    check_joins_us: float
    inputs_anew_us: float
    inputs_us: float
    inputs_joins_us: float
    complete_us: float


@dataclass(frozen=True)
class PromptTurns:
    """How long a long prompt holds what others wait for: the event loop while it is hashed, turn
    by turn, and the worker's lock, without hashes made before and with them."""

    length: int
    hashed_ms: float
    longest_turn_ms: float
    lock_before_ms: float
    lock_ms: float


@dataclass(frozen=True)
class Quality:
    """Of an engine, by the same model in float32."""

    engine: str
    perplexity: float
    ratio: float
    agreed: float
    answers_perplexity: float


DECODE = Table(
    "decode",
    DecodeStep,
    {
        "Threads": lambda row: str(row.threads),
        "Batch x context": lambda row: f"{row.batch} x {row.context}",
        "Step": lambda row: number(row.step_ms),
        "Floor": lambda row: number(row.floor_ms),
        "Step / floor": lambda row: f"**{row.by_floor:.2f}**",
        "Products, ours / oneDNN": lambda row: numbers(row.ours_ms, row.onednn_ms),
        "Attention / reading its KV": lambda row: numbers(row.attention_ms, row.reading_ms),
        "Norms, rotary, SiLU": lambda row: number(row.other_ms),
        "Inputs / argmax": lambda row: numbers(row.inputs_ms, row.argmax_ms, form=".2f"),
        "Read GB/s": lambda row: number(row.read_gbs, ".0f"),
    },
    (Goal(Bound("A decode step by its floor", 1.3), lambda row: row.by_floor),),
)
PREFILL = Table(
    "prefill",
    Prefill,
    {
        "Threads": lambda row: str(row.threads),
        "Prompts x tokens": lambda row: f"{row.batch} x {row.length:,}",
        "Prefill": lambda row: number(row.prefill_ms, ",.0f"),
        "Products alone / prefill": lambda row: f"**{row.share:.0%}**",
        "Products, ours / oneDNN": lambda row: numbers(row.ours_ms, row.onednn_ms, form=",.0f"),
        "Attention": lambda row: number(row.attention_ms, ",.0f"),
        "Norms, rotary, SiLU": lambda row: number(row.other_ms, ",.0f"),
    },
    (
        Goal(
            Bound("Prefill of 512 tokens: of its products' rate", 0.9, ".0%", is_least=True),
            lambda row: row.share if row.length == 512 else None,
        ),
        Goal(
            Bound("Prefill of 2,000 tokens: of its products' rate", 0.75, ".0%", is_least=True),
            lambda row: row.share if row.length == 2000 else None,
        ),
    ),
)
QUANTIZED = Table(
    "quantized",
    QuantizedStep,
    {
        "Threads": lambda row: str(row.threads),
        "Step": lambda row: row.step,
        "As they are": lambda row: number(row.plain_ms),
        "int8": lambda row: number(row.int8_ms),
        "int8 / plain": lambda row: f"**{row.int8_ms / row.plain_ms:.2f}**",
        "int4": lambda row: number(row.int4_ms),
        "int4 / plain": lambda row: f"**{row.int4_ms / row.plain_ms:.2f}**",
        "Reading them all": lambda row: numbers(
            row.reading_plain_ms, row.reading_int8_ms, row.reading_int4_ms
        ),
    },
    (
        Goal(
            Bound("A token by 4-bit weights on two threads, ms", 5.0, ".1f"),
            lambda row: row.int4_ms if (row.threads, row.step) == (2, "decode 1 x 128") else None,
        ),
    ),
)
SAME_PRODUCTS = Table(
    "same-bits-products",
    SameProducts,
    {
        "Threads": lambda row: str(row.threads),
        "Rows": lambda row: str(row.rows),
        "Ours, ms": lambda row: number(row.ours_ms),
        "oneDNN, ms": lambda row: number(row.onednn_ms),
        "Ours / oneDNN": lambda row: f"**{row.ours_ms / row.onednn_ms:.2f}**",
    },
)
SAME_ATTENTION = Table(
    "same-bits-attention",
    SameAttention,
    {
        "Threads": lambda row: str(row.threads),
        "Step": lambda row: row.step,
        "Fixed, ms": lambda row: number(row.fixed_ms, ".2f"),
        "Free, ms": lambda row: number(row.free_ms, ".2f"),
        "Fixed / free": lambda row: f"**{row.fixed_ms / row.free_ms:.2f}**",
        "Free ranges of": lambda row: str(row.free_range or "all"),
    },
)
HOST = Table(
    "host",
    HostStep,
    {
        "Batch x context": lambda row: f"{row.batch} x {row.context:,}",
        "Next plan, us": lambda row: number(row.plan_us, ".0f"),
        "Check: anew / kept / one joins": lambda row: numbers(
            row.check_anew_us, row.check_us, row.check_joins_us, form=",.0f"
        ),
        "Inputs: anew / kept / one joins": lambda row: numbers(
            row.inputs_anew_us, row.inputs_us, row.inputs_joins_us, form=",.0f"
        ),
        "Complete": lambda row: number(row.complete_us, ".0f"),
    },
)
PROMPTS = Table(
    "prompts",
    PromptTurns,
    {
        "Prompt's tokens": lambda row: f"{row.length:,}",
        "Hashed, ms: whole / longest turn": lambda row: numbers(
            row.hashed_ms, row.longest_turn_ms, form=".2f"
        ),
        "Under the lock, ms: before / now": lambda row: numbers(
            row.lock_before_ms, row.lock_ms, form=".2f"
        ),
    },
)
QUALITY = Table(
    "quality",
    Quality,
    {
        "Engine": lambda row: row.engine,
        "Perplexity": lambda row: number(row.perplexity, ".3f"),
        "/ float32's": lambda row: number(row.ratio, ".4f"),
        "Tokens agreed": lambda row: number(row.agreed, ".1%"),
        "Answers' perplexity": lambda row: number(row.answers_perplexity, ".4f"),
    },
)
