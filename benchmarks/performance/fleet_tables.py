"""What gateway and workers do together: transfers, the loop, prompts beside streams, starts."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

from performance.table import Bound, Goal, Table, number, numbers

MIB = 2**20


@dataclass(frozen=True)
class Hidden:
    """How much of the transfers' time compute hid, and what sending costs a prefill (with sending
    by without). All in quartiles, `least` of the first."""

    tokens: int
    dtype: str
    kv_mib: float
    least: float
    hidden: tuple[float, float, float]
    cost: tuple[float, float, float]


@dataclass(frozen=True)
class KvRate:
    """Bytes by seconds of KV from pool to pool, and of a raw TCP socket, and the ratios in
    quartiles; processor seconds for a gigabyte of both ends."""

    frame_kib: float
    mean_kib: float
    kv_gbs: float
    raw_gbs: float
    ratio: tuple[float, float, float]
    sender_s: float | None = None
    receiver_s: float | None = None


@dataclass(frozen=True)
class LoopStep:
    """Processor milliseconds of a decode step, by process; `engine_ms` is the fake engine's own."""

    profile: str
    batch: int
    gateway_ms: float
    prefill_ms: float
    decode_ms: float
    engine_ms: float
    steps_per_s: float
    chunks_per_step: float
    chunks_per_s: float

    @property
    def all_ms(self) -> float:
        return self.gateway_ms + self.prefill_ms + self.decode_ms


@dataclass(frozen=True)
class Watched:
    """Processor time of a token while watched, by that without: the least, the median and the most
    of the rounds' ratios."""

    by: str
    batch: int
    profile: str
    often: float
    rounds: int
    ratio: tuple[float, float, float]


@dataclass(frozen=True)
class Together:
    """Short streams beside long prompts; milliseconds of the model's own time."""

    serving: str
    engines: int
    short_tokens_per_s: float
    short_itl_ms: tuple[float, float, float]
    short_ttft_p99_ms: float
    long_ttft_ms: tuple[float, float]


@dataclass(frozen=True)
class Shared:
    """Prompts with one system prompt by prompts with one each: ratios."""

    device: str
    users: int
    ttft_alone: float
    ttft_together: float
    blocks: float
    prefill_blocks: float
    decode_blocks: float
    kv_bytes: float


@dataclass(frozen=True)
class Interference:
    """p99 of running streams' intervals without long prompts and with them, by pairs."""

    arm: str
    without_ms: tuple[float, ...]
    with_ms: tuple[float, ...]
    ratio: tuple[float, float, float]
    num_problems: int


@dataclass(frozen=True)
class Started:
    """Seconds from the command to ready: the least, the median, the most."""

    arm: str
    ready_s: tuple[float, float, float]


@dataclass(frozen=True)
class Memory:
    """Bytes of a process, in proportional shares. `mapped` are the packed weights in whole,
    `weights` its share of them; `pool` is what of the KV pool is resident: pages come as they are
    written. The others are `files` and `own`."""

    pss: int
    mapped: int
    weights: int
    pool: int
    files: int

    @property
    def overhead(self) -> int:
        return self.pss - self.weights - self.pool

    @property
    def own(self) -> int:
        return self.overhead - self.files


@dataclass(frozen=True)
class ReadyProcess(Memory):
    """A process once all is ready."""

    arm: str
    process: str


def spread(values: tuple[float, float, float], form: str) -> str:
    """The middle, with what is below and above it."""
    low, middle, high = (f"{each:{form}}" for each in values)
    return f"**{middle}** ({low} to {high})"


def more(ratio: tuple[float, float, float]) -> tuple[float, float, float]:
    low, middle, high = ratio
    return low - 1, middle - 1, high - 1


def mib(size: int) -> str:
    return f"{size / MIB:,.0f}"


HIDDEN = Table(
    "pipeline",
    Hidden,
    {
        "Prompt": lambda row: f"{row.tokens:,} tokens, {row.dtype}",
        "KV, MiB": lambda row: number(row.kv_mib),
        "Hidden by compute": lambda row: spread(row.hidden, ".3f"),
        "At least": lambda row: number(row.least, ".3f"),
        "Prefill with sending / without": lambda row: spread(row.cost, ".3f"),
    },
)
KV_TRANSFER = Table(
    "kv-transfer",
    KvRate,
    {
        "Frame at most (mean), KiB": lambda row: f"{row.frame_kib:.0f} ({row.mean_kib:.0f})",
        "KV, GB/s": lambda row: number(row.kv_gbs, ".2f"),
        "Raw TCP, GB/s": lambda row: number(row.raw_gbs, ".2f"),
        "KV / raw": lambda row: spread(row.ratio, ".2f"),
        "Processor s a GB, sender / receiver": lambda row: numbers(
            row.sender_s, row.receiver_s, form=".2f"
        ),
    },
    (
        Goal(
            Bound("KV in frames of 1 MiB: of a raw socket's rate", 0.25, is_least=True),
            lambda row: row.ratio[1] if row.frame_kib == 1024 else None,
        ),
    ),
)
LOOP = Table(
    "loop",
    LoopStep,
    {
        "Mock": lambda row: row.profile,
        "Batch": lambda row: str(row.batch),
        "Gateway / decode, ms": lambda row: numbers(row.gateway_ms, row.decode_ms, form=".2f"),
        "All, ms": lambda row: number(row.all_ms, ".2f"),
        "Fake engine, ms": lambda row: number(row.engine_ms, ".2f"),
        "Without it, ms": lambda row: f"**{row.all_ms - row.engine_ms:.2f}**",
        "Steps/s": lambda row: number(row.steps_per_s, ",.0f"),
        "Chunks a step": lambda row: number(row.chunks_per_step),
        "Chunks/s and core of the gateway": lambda row: number(row.chunks_per_s, ",.0f"),
    },
    (
        Goal(
            Bound("A step of 16 besides its engine, ms of processor time", 0.7),
            lambda row: (
                row.all_ms - row.engine_ms if (row.profile, row.batch) == ("zero", 16) else None
            ),
        ),
    ),
)
WATCHING = Table(
    "watching",
    Watched,
    {
        "By": lambda row: row.by + (f", {row.often:g} times as often" if row.often != 1 else ""),
        "Streams": lambda row: f"{row.batch}, {row.profile}",
        "Rounds": lambda row: str(row.rounds),
        "More processor time a token": lambda row: spread(more(row.ratio), "+.1%"),
    },
    (
        Goal(
            Bound("Being watched: more processor time a token", 0.02, ".1%"),
            lambda row: row.ratio[1] - 1 if row.often == 1 else None,
        ),
    ),
)
COLOCATED = Table(
    "colocated",
    Together,
    {
        "Serving": lambda row: row.serving,
        "Engines": lambda row: str(row.engines),
        "Short tok/s": lambda row: number(row.short_tokens_per_s, ",.0f"),
        "Short ITL p50 / p99 / max, ms": lambda row: numbers(*row.short_itl_ms),
        "Short TTFT p99, ms": lambda row: number(row.short_ttft_p99_ms, ".0f"),
        "Long TTFT p50 / max, ms": lambda row: numbers(*row.long_ttft_ms, form=".0f"),
    },
)
PREFIXES = Table(
    "prefix",
    Shared,
    {
        "Device": lambda row: f"{row.device}, {row.users} users",
        "TTFT alone": lambda row: f"**{row.ttft_alone:.2f}**",
        "TTFT at once": lambda row: f"**{row.ttft_together:.2f}**",
        "Blocks, both workers": lambda row: f"**{row.blocks:.2f}**",
        "Decode": lambda row: number(row.decode_blocks, ".2f"),
        "Prefill": lambda row: number(row.prefill_blocks, ".2f"),
        "KV bytes moved": lambda row: number(row.kv_bytes, ".2f"),
    },
    (
        Goal(
            Bound("A shared prompt: first token by a cold one's", 0.25), lambda row: row.ttft_alone
        ),
        Goal(Bound("Shared prompts: blocks by unshared ones'", 0.3), lambda row: row.blocks),
    ),
)
INTERFERENCE = Table(
    "interference",
    Interference,
    {
        "Arm": lambda row: row.arm,
        "ITL p99 without, ms": lambda row: number(median(row.without_ms), ".0f"),
        "With prompts of 2,048 tokens": lambda row: number(median(row.with_ms), ".0f"),
        "Ratio": lambda row: spread(row.ratio, ".2f"),
        "Pairs": lambda row: str(len(row.with_ms)),
        "Problems": lambda row: str(row.num_problems),
    },
    (
        Goal(
            Bound("Running streams' p99 while long prompts arrive, by without (1p1d)", 1.3),
            lambda row: row.ratio[1] if row.arm == "1p1d" else None,
        ),
    ),
)
START = Table(
    "start",
    Started,
    {
        "Arm": lambda row: row.arm,
        "Ready, s": lambda row: spread(row.ready_s, ".1f"),
    },
    (Goal(Bound("Ready from a warm cache, s", 5.0, ".1f"), lambda row: row.ready_s[1]),),
)
READY = Table(
    "ready",
    ReadyProcess,
    {
        "Arm": lambda row: row.arm,
        "Process": lambda row: row.process,
        "PSS, MiB": lambda row: mib(row.pss),
        "Weights, of": lambda row: f"{mib(row.weights)} of {mib(row.mapped)}" if row.mapped else "",
        "Pool": lambda row: mib(row.pool) if row.pool else "",
        "Overhead (files + own)": lambda row: (
            f"**{mib(row.overhead)}** ({mib(row.files)} + {mib(row.own)})"
        ),
    },
)
