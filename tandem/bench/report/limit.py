"""What limited a load: the load tool itself, something in the server, or nobody knows. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from tandem.bench.report.server_account import ServerAccount
from tandem.bench.report.stats import Stats

# A load tool that begins with a request so much after it was due, or takes so much of the one core
# that it can take, measures itself.
LATE_MS = 25.0
BUSY_CORES = 0.9
# Arrivals that are many at a time, and the share of a median TTFT which their beginning may take.
BURSTS = ("at once", "closed")
BURST_SHARE = 0.1
LOAD_TOOL = "load tool"
UNKNOWN = "not known"


@dataclass(frozen=True, slots=True)
class LoadTool:
    """How late it began with requests, the processor time that it took, per second, and for how
    many requests it had no connection."""

    late_p50_ms: float
    late_p99_ms: float
    late_max_ms: float
    cores: float
    num_unsent: int = 0


@dataclass(frozen=True, slots=True)
class Limit:
    """Where the limit was: `load tool`, `not known`, or a bottleneck of Tandem's (`prefill`,
    `transfers`, `decode`, `workers`, `clients`: it had room for more)."""

    where: str
    text: str

    @property
    def is_load_tool(self) -> bool:
        """Then the figures are its own, and not the server's."""
        return self.where == LOAD_TOOL


def late_bound_ms(arrivals: str, ttft_ms: Stats | None) -> float:
    """How late a load tool may begin with requests. Those that come all at once it has to begin one
    after the other: that is no fault as long as it is little of what is measured."""
    if arrivals not in BURSTS or ttft_ms is None:
        return LATE_MS
    return max(LATE_MS, BURST_SHARE * ttft_ms.p50)


def find_limit(
    tool: LoadTool,
    server: ServerAccount | None,
    problem: str = "",
    late_ms: float = LATE_MS,
) -> Limit:
    """The load tool, if it could not keep up, within `late_ms`; else what held the server up
    longest. `problem`: why it does not tell, if that is known."""
    if lack := _lack(tool, late_ms):
        return Limit(LOAD_TOOL, f"{lack}: figures are of the load tool, not of the server")
    if server is None or not server.holdups:
        why = f" ({problem})" if problem else ""
        return Limit(UNKNOWN, f"the server does not tell{why}, and the load tool kept up")
    longest = server.holdups[0]
    return Limit(longest.where, f"{longest.share:.0%} of the time: {longest.text}")


def _lack(tool: LoadTool, late_ms: float) -> str:
    """What kept it from keeping up."""
    if tool.num_unsent:
        return f"it had no connection for {tool.num_unsent} requests (see `ulimit -n`)"
    if tool.late_p99_ms > late_ms:
        return f"it began with requests up to {tool.late_p99_ms:.0f} ms late (p99)"
    if tool.cores > BUSY_CORES:
        return f"it took {tool.cores:.2f} cores, and can take one"
    return ""
