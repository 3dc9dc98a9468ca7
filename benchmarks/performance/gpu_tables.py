"""What the engine's steps and copies take on a GPU, and the limits beside them."""

from __future__ import annotations

from dataclasses import dataclass

from performance.table import Bound, Goal, Table, number

# Beside smaller ones what the host does for each is longer than their time on the bus.
LARGE_FRAME_KIB = 8192


@dataclass(frozen=True)
class GpuDecode:
    """The floor are the bytes of the weights and of the KV at the rate at which this GPU reads.
    `alone_ms` is a step that is launched and waited for, `kernels_ms` its graph by itself,
    `products` whose products it takes."""

    batch: int
    context: int
    step_ms: float
    floor_ms: float
    alone_ms: float
    kernels_ms: float
    products: str

    @property
    def share(self) -> float:
        return self.floor_ms / self.step_ms


@dataclass(frozen=True)
class GpuMixed:
    """Single tokens beside a prompt's, which take no graph; each of the two by itself."""

    batch: int
    prompt: int
    step_ms: float
    singles_ms: float
    prompt_ms: float


@dataclass(frozen=True)
class GpuSampled:
    """A batch of single tokens that are sampled so."""

    sampling: str
    step_ms: float


@dataclass(frozen=True)
class GpuPrefill:
    """The limit is the rate of one large product."""

    batch: int
    length: int
    prefill_ms: float
    tflops: float
    limit_tflops: float

    @property
    def share(self) -> float:
        return self.tflops / self.limit_tflops


@dataclass(frozen=True)
class GpuCopies:
    """GB/s of a prompt's KV from the pool to messages and back, or no further than pinned memory;
    the limit are plain copies from and to that, one after the other as `both` is."""

    frame_kib: int
    threads: int
    is_staged: bool
    out: float
    into: float
    limit_out: float
    limit_in: float

    @property
    def both(self) -> float:
        return 1 / (1 / self.out + 1 / self.into)

    @property
    def share(self) -> float:
        return self.both * (1 / self.limit_out + 1 / self.limit_in)


GPU_DECODE = Table(
    "gpu-decode",
    GpuDecode,
    {
        "Batch x context": lambda row: f"{row.batch} x {row.context}",
        "Step, ms": lambda row: number(row.step_ms, ".2f"),
        "Floor, ms": lambda row: number(row.floor_ms, ".2f"),
        "Floor / step": lambda row: f"**{row.share:.0%}**",
        "One step alone, ms": lambda row: number(row.alone_ms, ".2f"),
        "Its kernels, ms": lambda row: number(row.kernels_ms, ".2f"),
        "Products": lambda row: row.products,
    },
    (
        Goal(
            Bound("On a GPU: a decode step's floor by it", 0.8, ".0%", is_least=True),
            lambda row: row.share,
        ),
    ),
)
GPU_MIXED = Table(
    "gpu-mixed",
    GpuMixed,
    {
        "Single tokens + prompt": lambda row: f"{row.batch} + {row.prompt}",
        "Step, ms": lambda row: number(row.step_ms, ".2f"),
        "Single tokens alone": lambda row: number(row.singles_ms, ".2f"),
        "Prompt alone": lambda row: number(row.prompt_ms, ".2f"),
    },
)
GPU_SAMPLED = Table(
    "gpu-sampled",
    GpuSampled,
    {
        "Sampled": lambda row: row.sampling,
        "Step, ms": lambda row: number(row.step_ms, ".2f"),
    },
)
GPU_PREFILL = Table(
    "gpu-prefill",
    GpuPrefill,
    {
        "Prompts x tokens": lambda row: f"{row.batch} x {row.length:,}",
        "ms": lambda row: number(row.prefill_ms),
        "TFLOP/s": lambda row: number(row.tflops, ".0f"),
        "of one large product's": lambda row: f"**{row.share:.0%}**",
        "tok/s": lambda row: f"{1e3 * row.batch * row.length / row.prefill_ms:,.0f}",
    },
    (
        Goal(
            Bound(
                "On a GPU: prefill of 8,192 tokens, of a large product's rate",
                0.55,
                ".0%",
                is_least=True,
            ),
            lambda row: row.share,
        ),
    ),
)
GPU_COPIES = Table(
    "gpu-kv",
    GpuCopies,
    {
        "KiB a frame": lambda row: f"{row.frame_kib:,}",
        "Threads": lambda row: str(row.threads),
        "To": lambda row: "pinned memory" if row.is_staged else "messages",
        "out, GB/s": lambda row: number(row.out),
        "in, GB/s": lambda row: number(row.into),
        "out and in, GB/s": lambda row: number(row.both),
        "of pinned copies'": lambda row: f"**{row.share:.0%}**",
    },
    (
        Goal(
            Bound(
                "On a GPU: KV of 8 MiB to pinned memory and back, of copies' rate",
                0.7,
                ".0%",
                is_least=True,
            ),
            lambda row: row.share if row.is_staged and row.frame_kib >= LARGE_FRAME_KIB else None,
        ),
        Goal(
            Bound("On a GPU: KV to messages and back, of copies' rate", 0.7, ".0%", is_least=True),
            lambda row: None if row.is_staged else row.share,
        ),
    ),
)
