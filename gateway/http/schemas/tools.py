"""Tools, in a request's body."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from gateway.grammars import schema_text
from gateway.http.schemas.base import Body
from gateway.tools.tool import NO_PARAMETERS, Tool, ToolCall, ToolMode, ToolUse
from tandem.core.errors import InvalidRequest


class FunctionBody(Body):
    """What a model is told of a function. `parameters` is a JSON schema."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolBody(Body):
    """A tool. Only functions are served."""

    type: Literal["function"]
    function: FunctionBody

    def tool(self) -> Tool:
        """In the protocol-neutral form. Raises `InvalidRequest`."""
        function = self.function
        return Tool(
            name=function.name,
            description=function.description or "",
            parameters=schema_text(function.parameters, "tools")
            if function.parameters
            else NO_PARAMETERS,
            strict=bool(function.strict),
        )


class ChosenFunction(Body):
    """A function's name."""

    name: str


class NamedChoice(Body):
    """The tool that must be called."""

    type: Literal["function"]
    function: ChosenFunction


ToolChoice = Annotated[
    Literal["none", "auto", "required"] | NamedChoice, Field(union_mode="left_to_right")
]


class CalledFunction(Body):
    """What an earlier call called. `arguments` is JSON text."""

    name: str
    arguments: str


class ToolCallBody(Body):
    """A call that the assistant made in an earlier turn."""

    id: str
    type: Literal["function"] = "function"
    function: CalledFunction

    def call(self) -> ToolCall:
        """In the protocol-neutral form."""
        return ToolCall(self.id, self.function.name, self.function.arguments)


def read_tools(
    tools: list[ToolBody] | None, choice: str | NamedChoice | None, parallel: bool
) -> ToolUse | None:
    """None if nothing may be called. Raises `InvalidRequest`."""
    if not tools:
        if choice not in (None, "none", "auto"):
            raise InvalidRequest("tool_choice goes with tools", param="tool_choice")
        return None
    if choice == "none":
        return None
    use = ToolUse(tuple(tool.tool() for tool in tools), parallel=parallel)
    if isinstance(choice, NamedChoice):
        return ToolUse(use.tools, ToolMode.REQUIRED, choice.function.name, parallel)
    return ToolUse(use.tools, ToolMode(choice or "auto"), parallel=parallel)
