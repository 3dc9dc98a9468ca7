"""Reports of loads that nobody ran."""

from __future__ import annotations

import random
from collections.abc import Sequence

from tandem.bench.report.bounds import Bounds
from tandem.bench.report.figures import Window, figures_of
from tandem.bench.report.limit import Limit, LoadTool
from tandem.bench.report.load_report import SCHEMA, LoadReport, LoadSpec, Target
from tandem.bench.report.rows import RequestRow
from tandem.bench.report.server_account import (
    Holdup,
    ServerAccount,
    Stages,
    TransferAccount,
    WorkerAccount,
)

SPEC = LoadSpec("chat", "ids", "poisson", 4.0, 1.0, 0, 0, 30.0, 0.0, 1.0, True, 0)
SERVER = ServerAccount(
    seconds=30.0,
    num_scrapes=31,
    stages=Stages(12.0, 80.0, 600.0),
    num_running=7.5,
    num_waiting=0.4,
    kv_usage=0.31,
    cached_share=0.125,
    preemptions=2,
    recoveries=0,
    efficiency=0.71,
    transfers=TransferAccount(120, 50_000_000, 14.0, 0.93),
    workers=[WorkerAccount("prefill-0", "prefill", 0.52), WorkerAccount("decode-0", "decode", 0.9)],
    holdups=[Holdup("decode", 0.8, "93% busy"), Holdup("clients", 0.2, "room for more")],
)


def row(
    due_ms: float,
    ttft_ms: float | None = 100.0,
    gaps_ms: Sequence[float] = (10.0, 10.0),
    **changed,
) -> RequestRow:
    """A request that was served, if nothing else is said."""
    served = ttft_ms is not None
    settings = {
        "due_ms": due_ms,
        "measured": True,
        "late_ms": 0.2,
        "num_prompt": 64,
        "num_output": 1 + len(gaps_ms) if served else 0,
        "ttft_ms": ttft_ms,
        "latency_ms": ttft_ms + sum(gaps_ms) if served else None,
        "chunk_ms": list(gaps_ms) if served else [],
    }
    return RequestRow(**{**settings, **changed})


def random_rows(count: int, seed: int = 0, slower: float = 1.0) -> list[RequestRow]:
    """Those of a load of 30 s; of one seed the same, `slower` times as slow."""
    rng = random.Random(seed)
    rows = []
    for _ in range(count):
        due_ms = rng.uniform(0, 30_000)
        num_prompt = round(rng.lognormvariate(5.5, 0.7))
        ttft_ms = slower * (20 + 0.4 * num_prompt * rng.uniform(0.8, 2))
        gaps = [slower * rng.lognormvariate(2.3, 0.3) for _ in range(rng.randrange(5, 90))]
        rows.append(row(due_ms, ttft_ms, gaps, num_prompt=num_prompt))
    return sorted(rows, key=lambda each: each.due_ms)


def report(
    rows: Sequence[RequestRow],
    *,
    spec: LoadSpec = SPEC,
    bounds: Bounds | None = None,
    server: ServerAccount | None = SERVER,
    limit: Limit | None = None,
    window: Window | None = None,
    **target: str,
) -> LoadReport:
    window = window or Window(0.0, 30_000.0)
    return LoadReport(
        schema=SCHEMA,
        tandem="0.1.0",
        began_at="2026-11-27T08:00:00+00:00",
        target=Target(
            **{"url": "http://host:8000", "protocol": "HTTP, completions", "model": "m", **target}
        ),
        load=spec,
        window=window,
        bounds=bounds,
        figures=figures_of(rows, window, bounds),
        limit=limit or Limit("decode", "80% of the time: 93% busy"),
        tool=LoadTool(0.1, 0.9, 3.0, 0.2),
        server=server,
        stopped=False,
        requests=list(rows),
    )
