"""All that a prompt is rendered from counts, wherever a client puts it."""

from __future__ import annotations

import pytest

from gateway.offload import Offload
from gateway.request import ChatMessage, ChatPrompt, GenerationRequest, TextPrompt, TokenPrompt
from gateway.sizes import prompt_size, request_size
from gateway.tools.tool import NO_PARAMETERS, Tool, ToolCall, ToolUse

MUCH = "x" * 10_000
SCHEMA = f'{{"description":"{MUCH}"}}'


def chat(**fields: object) -> ChatPrompt:
    return ChatPrompt((ChatMessage(**{"role": "assistant", "content": "", **fields}),))


@pytest.mark.parametrize(
    ("prompt", "tools"),
    [
        (TextPrompt(MUCH), None),
        (TokenPrompt((1,) * len(MUCH)), None),
        (chat(content=MUCH), None),
        (chat(name=MUCH), None),
        (chat(tool_call_id=MUCH), None),
        (chat(tool_calls=(ToolCall(MUCH, "f", ""),)), None),
        (chat(tool_calls=(ToolCall("i", MUCH, ""),)), None),
        (chat(tool_calls=(ToolCall("i", "f", MUCH),)), None),
        (ChatPrompt((), {MUCH: 1}), None),
        (ChatPrompt((), {"x": MUCH}), None),
        (chat(), ToolUse((Tool(MUCH, "", NO_PARAMETERS),))),
        (chat(), ToolUse((Tool("f", MUCH, NO_PARAMETERS),))),
        (chat(), ToolUse((Tool("f", "", NO_PARAMETERS), Tool("g", "", SCHEMA)))),
    ],
)
def test_all_of_a_prompt_counts(prompt, tools):
    assert len(MUCH) <= prompt_size(prompt, tools) < len(MUCH) + 200
    request = GenerationRequest(prompts=(prompt, prompt), tools=tools)
    assert request_size(request) == 2 * prompt_size(prompt, tools)


async def test_tokenising_is_bounded_by_what_all_of_it_amounts_to(frontend, monkeypatch):
    sizes: list[int] = []
    run = Offload.run

    async def recorded(self, size, *arguments, **details):
        sizes.append(size)
        return await run(self, size, *arguments, **details)

    monkeypatch.setattr(Offload, "run", recorded)
    call = ToolCall("i", "f", f'{{"a": "{MUCH}"}}')
    prompt = chat(tool_calls=(call,))
    tools = ToolUse((Tool("f", MUCH, NO_PARAMETERS),))
    token_ids = await frontend.tokenize(prompt, tuple, tools=tools)
    # A token is a character here.
    assert 2 * len(MUCH) < len(token_ids) < sizes[0] + 1000
