"""One request as it stands in a report."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

from tandem.bench.closed_loop import UNFINISHED
from tandem.bench.watch import Asked

MS_DIGITS = 3


@dataclass(frozen=True, slots=True)
class RequestRow:
    """Times are milliseconds. `due_ms` counts from the run's start, and `ttft_ms` and `latency_ms`,
    to the first and the last token, from when the request was due; None if no token came. The load
    tool began with it `late_ms` after that.

    `chunk_ms` are the times between pieces of the answer that brought tokens, and `chunk_tokens`
    how many each brought, the first included; it is empty if each brought one. An answer whose
    tokens the server did not count is not `counted`: each piece is then taken for one (None in
    older reports). What the server did not tell is None. Those who came to warm up or to keep the
    load up are not `measured`.
    """

    due_ms: float
    measured: bool
    late_ms: float
    num_prompt: int
    num_output: int
    ttft_ms: float | None
    latency_ms: float | None
    chunk_ms: list[float] = field(default_factory=list)
    chunk_tokens: list[int] = field(default_factory=list)
    problem: str = ""
    num_cached: int | None = None
    mode: str | None = None
    prefill_worker: str | None = None
    decode_worker: str | None = None
    kv_bytes: int | None = None
    recoveries: int | None = None
    preemptions: int | None = None
    counted: bool | None = None

    @property
    def failed(self) -> bool:
        """Whether the answer is not what was asked for. What nobody measures may be cut off."""
        return bool(self.problem) and (self.measured or self.problem != UNFINISHED)

    @property
    def served(self) -> bool:
        """Whether its times count."""
        return self.measured and not self.problem

    @property
    def tpot_ms(self) -> float | None:
        """Time per token after the first; None if there is none."""
        if self.ttft_ms is None or self.latency_ms is None or self.num_output < 2:
            return None
        return (self.latency_ms - self.ttft_ms) / (self.num_output - 1)

    def arrivals(self) -> list[tuple[float, int]]:
        """When tokens came, in milliseconds from the run's start, and how many each time."""
        if self.ttft_ms is None:
            return []
        at_ms = self.due_ms + self.ttft_ms
        times = [at_ms]
        for gap_ms in self.chunk_ms:
            times.append(at_ms := at_ms + gap_ms)
        return list(zip(times, self.chunk_tokens or [1] * len(times), strict=True))


def request_row(asked: Asked, start_s: float, measured: bool) -> RequestRow:
    """A request of a run that began at `start_s`."""
    answer, told = asked.answer, asked.answer.told
    # Rounded before they are subtracted, so that what lies between adds up to the whole.
    times = [_ms(at_s - asked.due_s) for at_s, _ in answer.arrivals]
    reached = [0, *(count for _, count in answer.arrivals)]
    chunk_tokens = [after - before for before, after in pairwise(reached)]
    return RequestRow(
        due_ms=_ms(asked.due_s - start_s),
        measured=measured,
        late_ms=_ms(asked.began_s - asked.due_s),
        num_prompt=told.get("prompt_tokens") or len(answer.prompt.token_ids),
        num_output=answer.num_tokens,
        ttft_ms=times[0] if times else None,
        latency_ms=times[-1] if times else None,
        chunk_ms=[round(after - before, MS_DIGITS) for before, after in pairwise(times)],
        chunk_tokens=[] if set(chunk_tokens) <= {1} else chunk_tokens,
        problem=answer.problem() if asked.ended_s is not None else UNFINISHED,
        num_cached=told.get("cached_tokens"),
        mode=told.get("mode"),
        prefill_worker=told.get("prefill_worker"),
        decode_worker=told.get("decode_worker"),
        kv_bytes=told.get("kv_bytes"),
        recoveries=told.get("recoveries"),
        preemptions=told.get("preemptions"),
        counted=answer.is_counted,
    )


def _ms(seconds: float) -> float:
    return round(seconds * 1e3, MS_DIGITS)
