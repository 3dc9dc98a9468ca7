"""Tools that a client offers, and calls of them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

# A function whose parameters are not given has none.
NO_PARAMETERS = '{"type":"object","properties":{},"additionalProperties":false}'


@dataclass(frozen=True, slots=True)
class Tool:
    """A function. `parameters` is the JSON schema of its arguments, an object, as text. The
    arguments of a `strict` one always match it."""

    name: str
    description: str
    parameters: str
    strict: bool = False


class ToolMode(Enum):
    """Whether the model calls."""

    AUTO = "auto"
    REQUIRED = "required"


@dataclass(frozen=True, slots=True)
class ToolUse:
    """The tools of a request and what the model may do with them. With `only` it must call that
    one, once. Without `parallel` it makes at most one call."""

    tools: tuple[Tool, ...]
    mode: ToolMode = ToolMode.AUTO
    only: str = ""
    parallel: bool = True

    @property
    def forced(self) -> bool:
        """Whether the answer must be a call."""
        return self.mode is ToolMode.REQUIRED or bool(self.only)

    def keeps(self, tool: Tool) -> bool:
        """Whether a call of the tool must match its parameters."""
        return tool.strict or self.forced

    @property
    def is_free(self) -> bool:
        """Whether calls may look like anything."""
        return not any(map(self.keeps, self.tools))

    @property
    def several(self) -> bool:
        """Whether there may be more than one call."""
        return self.parallel and not self.only

    @property
    def callable(self) -> tuple[Tool, ...]:
        """The tools that may be called."""
        return tuple(tool for tool in self.tools if self.only in ("", tool.name))


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that the model made in an earlier turn. `arguments` is JSON text."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A piece of the `index`-th call of a choice: the first has the id and the name, each has more
    of the arguments' text."""

    index: int
    arguments: str = ""
    id: str = ""
    name: str = ""
