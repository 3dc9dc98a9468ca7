"""What limited a load: the load tool itself, something in the server, or nobody knows. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from tandem.bench.report.server_account import ServerAccount

# A load tool that begins with a request so much after it was due, or takes so much of the one core
# that it can take, measures itself.
LATE_MS = 25.0
BUSY_CORES = 0.9
LOAD_TOOL = "load tool"
UNKNOWN = "not known"


@dataclass(frozen=True, slots=True)
class LoadTool:
    """How late it began with requests, and the processor time that it took, per second."""

    late_p50_ms: float
    late_p99_ms: float
    late_max_ms: float
    cores: float


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


def find_limit(tool: LoadTool, server: ServerAccount | None, problem: str = "") -> Limit:
    """The load tool, if it could not keep up; else what held the server up longest. `problem`: why
    it does not tell, if that is known."""
    if tool.late_p99_ms > LATE_MS:
        late = f"it began with requests up to {tool.late_p99_ms:.0f} ms late (p99)"
        return Limit(LOAD_TOOL, f"{late}: figures are of the load tool, not of the server")
    if tool.cores > BUSY_CORES:
        busy = f"it took {tool.cores:.2f} cores, and can take one"
        return Limit(LOAD_TOOL, f"{busy}: figures are of the load tool, not of the server")
    if server is None or not server.holdups:
        why = f" ({problem})" if problem else ""
        return Limit(UNKNOWN, f"the server does not tell{why}, and the load tool kept up")
    longest = server.holdups[0]
    return Limit(longest.where, f"{longest.share:.0%} of the time, as last: {longest.text}")
