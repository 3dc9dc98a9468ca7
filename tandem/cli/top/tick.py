"""A tick of the page's feed (`gateway/page/feed.py`), as far as it is shown here."""

from __future__ import annotations

from pydantic import BaseModel, ValidationError

from tandem.core.errors import Mismatch

# The median and the 99th percentile, in seconds; of nothing there are none.
Quantiles = tuple[float | None, float | None]


class Worker(BaseModel):
    """`busy` is a share of time; of `places` for sequences and of `blocks` some are taken. It is
    `needed` if without it new requests are refused."""

    id: str
    role: str
    state: str
    needed: bool
    device: str
    busy: float
    sequences: int
    places: int
    blocks: int
    used_blocks: int
    prompt_tokens: int
    cached_tokens: int

    @property
    def used_share(self) -> float:
        return self.used_blocks / max(1, self.blocks)

    @property
    def prefix_hits(self) -> float | None:
        return self.cached_tokens / self.prompt_tokens if self.prompt_tokens else None


class Requests(BaseModel):
    """How many requests are at each stage."""

    counts: dict[str, int]


class Totals(BaseModel):
    """Since the gateway began."""

    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int
    kv_bytes: int
    finished: int
    failed: int
    refused: int
    preemptions: int
    recoveries: int


class Pipeline(BaseModel):
    """Shares, of the last seconds; of nothing there are none."""

    efficiency: float | None
    hidden: float | None


class Bottleneck(BaseModel):
    """Where it is, and what is to be said of it."""

    where: str
    text: str


class Tick(BaseModel):
    """The whole at a time, `now`, in microseconds of the gateway's clock; in `lanes` the spans that
    are new, as `gateway/page/lane_reader.py` has it. `queue` are requests and their tokens."""

    now: int
    model: str | None
    lanes: dict[str, list[list[int]]]
    workers: list[Worker]
    queue: tuple[int, int]
    requests: Requests
    totals: Totals
    first_token_s: Quantiles
    between_tokens_s: Quantiles
    pipeline: Pipeline
    bottleneck: Bottleneck


def read_tick(data: str) -> Tick:
    """Raises `Mismatch` for what another version's gateway tells its page."""
    try:
        return Tick.model_validate_json(data)
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise Mismatch(f"the gateway's feed is of another version: {where or 'no JSON'}") from None
