"""How the families of models write calls, and which of them a chat template belongs to."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CallSyntax:
    """Calls are JSON objects `{"name": ..., <arguments_key>: {...}}` between marks.

    `opening` begins calls anywhere in a text; without one a text is calls from its first character,
    or none at all. `list_opening` and `list_closing` stand around all calls that follow an opening,
    `closing` after each. Several calls after one opening have a `separator` between them.
    """

    name: str
    opening: str
    arguments_key: str
    closing: str = ""
    separator: str = ""
    list_opening: str = ""
    list_closing: str = ""


# NousResearch's Hermes, Qwen 2.5 and 3.
HERMES = CallSyntax("hermes", "<tool_call>", "arguments", closing="</tool_call>")
# Llama 3.1 and later. What its templates call `parameters` are the arguments.
LLAMA = CallSyntax("llama", "", "parameters", separator=";")
# Mistral and Mixtral up to tokenizer version 7.
MISTRAL = CallSyntax(
    "mistral", "[TOOL_CALLS]", "arguments", separator=",", list_opening="[", list_closing="]"
)
# Some Llama models write it before a call; it is no part of one.
PYTHON_TAG = "<|python_tag|>"

SYNTAXES = {syntax.name: syntax for syntax in (HERMES, LLAMA, MISTRAL)}


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """A syntax, and whether the chat template itself tells the model of the tools. If not, a system
    message does, or where the template does not take one, the user's first."""

    syntax: CallSyntax
    native: bool
    takes_system: bool = True


def tool_format(
    template: str, takes_tools: bool, override: str = "auto", takes_system: bool = True
) -> ToolFormat:
    """The format for a chat template, by its text. `takes_tools`: it has a variable `tools`. Unless
    it is "auto", `override` is the name of the syntax that the model is known to write.
    `takes_system`: the template shows a system message."""
    detected = _detect(template) if takes_tools else None
    if override != "auto":
        syntax = SYNTAXES[override]
        return ToolFormat(syntax, native=takes_tools, takes_system=takes_system)
    return ToolFormat(detected or HERMES, detected is not None, takes_system)


def _detect(template: str) -> CallSyntax | None:
    """None for a way of writing calls that is not known here."""
    # Within the same marks, Qwen3-Coder writes XML.
    if "<function=" in template:
        return None
    if HERMES.opening in template:
        return HERMES
    # From version 11 on the name stands before the arguments, without an object around them.
    if MISTRAL.opening in template and "[ARGS]" not in template:
        return MISTRAL
    if PYTHON_TAG in template or '"parameters"' in template:
        return LLAMA
    return None
