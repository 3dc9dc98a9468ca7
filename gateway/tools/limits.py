"""What a request's tools may be at the most."""

from __future__ import annotations

import re

from gateway.grammars import check_schema
from gateway.sizes import tools_chars
from gateway.tools.tool import Tool, ToolUse
from tandem.core.errors import InvalidRequest

MAX_TOOLS = 128
MAX_TOOLS_CHARS = 2**18
NAME = re.compile(r"[a-zA-Z0-9_.-]{1,64}")


def check_tools(use: ToolUse) -> None:
    """Raises `InvalidRequest` that names the field."""
    if not use.tools:
        raise InvalidRequest("tools must not be empty", param="tools")
    if len(use.tools) > MAX_TOOLS:
        raise InvalidRequest(f"tools must have at most {MAX_TOOLS} entries", param="tools")
    num_chars = tools_chars(use)
    if num_chars > MAX_TOOLS_CHARS:
        raise InvalidRequest(
            f"tools must have at most {MAX_TOOLS_CHARS} characters, and have {num_chars}",
            param="tools",
        )
    names = [tool.name for tool in use.tools]
    for tool in use.tools:
        _check_tool(tool)
    if len(set(names)) < len(names):
        raise InvalidRequest("tools must have different names", param="tools")
    if use.only and use.only not in names:
        raise InvalidRequest(
            "tool_choice names a tool that is not among tools", param="tool_choice"
        )


def _check_tool(tool: Tool) -> None:
    if not NAME.fullmatch(tool.name):
        raise InvalidRequest(
            "a tool's name must be of 1 to 64 letters, digits, _, . and -", param="tools"
        )
    check_schema(tool.parameters, param="tools")
