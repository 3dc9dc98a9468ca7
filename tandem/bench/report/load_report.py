"""The whole of what came of a load, as JSON of a stated form."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import orjson
from pydantic import TypeAdapter, ValidationError

from tandem.bench.report.bounds import Bounds
from tandem.bench.report.figures import Figures, Window, figures_of
from tandem.bench.report.limit import Limit, LoadTool
from tandem.bench.report.rows import RequestRow
from tandem.bench.report.server_account import ServerAccount
from tandem.core.errors import ConfigError

SCHEMA: Literal["tandem.bench.load/1"] = "tandem.bench.load/1"


@dataclass(frozen=True, slots=True)
class Target:
    """What was asked, and how: `http`'s `completions` or `chat`, or `grpc`."""

    url: str
    protocol: str
    model: str


@dataclass(frozen=True, slots=True)
class LoadSpec:
    """What was asked for: reports compare if these are the same. `prompts` are `ids`, `text` (whose
    tokens are known), `words` or `chat`. `arrivals` are `poisson` or `gamma`, at a `rate`, those of
    a `trace`, `at once`, or `closed`: each as soon as another has ended. With the `same_tokens` a
    seed's prompts are the same in each run; else only their lengths are, and what they share.
    `trace` and `tokenizer` are digests of the files; what is None, an older report does not say."""

    workload: str
    prompts: str
    arrivals: str
    rate: float | None
    burstiness: float
    concurrency: int
    num_requests: int
    seconds: float
    warm_up_s: float
    length_scale: float
    ignore_eos: bool
    seed: int
    same_tokens: bool = True
    trace: str | None = None
    token_ids: str | None = None
    tokenizer: str | None = None
    timeout_s: float | None = None


@dataclass(frozen=True, slots=True)
class LoadReport:
    """`figures` and `limit` are worked out from the rest. `stopped`: it was ended before its time,
    and is of what had come by then; `stop_reason` is empty where a user did that."""

    schema: Literal["tandem.bench.load/1"]
    tandem: str
    began_at: str
    target: Target
    load: LoadSpec
    window: Window
    bounds: Bounds | None
    figures: Figures
    limit: Limit
    tool: LoadTool
    server: ServerAccount | None
    stopped: bool
    stop_reason: str = field(default="", kw_only=True)
    requests: list[RequestRow]

    def problems(self, *, measured: bool = True) -> list[tuple[str, int]]:
        """What went wrong with the requests that are measured, or with the others, and how often,
        the commonest first. Those of a kind are one, in the words of the first of them."""
        first: dict[str, str] = {}
        counts: dict[str, int] = {}
        for row in self.requests:
            if row.failed and row.measured is measured:
                kind = _kind(row.problem)
                first.setdefault(kind, row.problem)
                counts[kind] = counts.get(kind, 0) + 1
        return sorted(((first[each], count) for each, count in counts.items()), key=lambda x: -x[1])

    @property
    def num_uncounted(self) -> int:
        """Served requests whose tokens the server did not count."""
        return sum(row.served and row.counted is False for row in self.requests)


def _kind(problem: str) -> str:
    """`status 500 code`, say: a server's words often name the request. Or the problem without its
    numbers."""
    kind, colon, _ = problem.partition(": ")
    return kind if colon else re.sub(r"\d+", "", problem)


_ADAPTER = TypeAdapter(LoadReport)


def to_json(report: LoadReport) -> bytes:
    """One object."""
    return orjson.dumps(report) + b"\n"


def read_report(file: Path) -> LoadReport:
    """Its figures are worked out anew: an older file's may be by other rules. Raises `ConfigError`
    if there is none."""
    try:
        report = _ADAPTER.validate_json(file.read_bytes())
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        # Nowhere, if it is no JSON at all.
        where = ".".join(map(str, first["loc"]))
        why = ": ".join(filter(None, (where, first["msg"])))
        raise ConfigError(
            f"{file} is no report of `tandem bench serve` ({SCHEMA}): {why}"
        ) from None
    return replace(report, figures=figures_of(report.requests, report.window, report.bounds))
