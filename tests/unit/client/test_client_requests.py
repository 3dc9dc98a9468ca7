"""What is asked for, as a message."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from tandem.client import ToolCall
from tandem.client.requests import (
    build_detokenize_request,
    build_request,
    build_tokenize_request,
)
from tandem.core.errors import InvalidRequest


def test_a_choice_is_of_texts_not_of_a_text_s_letters() -> None:
    request = build_request(prompt="A colour:", choice=["red", "blue"])
    assert list(request.answer_form.one_of.texts) == ["red", "blue"]
    with pytest.raises(InvalidRequest, match="choice") as caught:
        build_request(prompt="A colour:", choice="red")
    assert caught.value.param == "choice"


def test_no_json_is_no_form_beside_another() -> None:
    form = build_request(prompt="A colour:", json_object=False, regex="red|blue").answer_form
    assert form.regex == "red|blue"
    assert not build_request(prompt="A colour:", json_object=False).HasField("answer_form")
    with pytest.raises(InvalidRequest, match="only one of"):
        build_request(prompt="A colour:", json_object=True, regex="red|blue")


IDS = [5, 2**32 - 1]


@pytest.mark.parametrize(
    "token_ids",
    [
        IDS,
        tuple(IDS),
        array("I", IDS),
        np.array(IDS),
        np.array(IDS, np.uint32),
        list(np.array(IDS)),
    ],
    ids=lambda each: f"{type(each).__name__} of {type(each[0]).__name__}",
)
def test_tokens_may_be_of_any_kind_of_integers(token_ids: Any) -> None:
    assert list(build_request(token_ids=token_ids).token_ids.ids) == IDS
    assert list(build_detokenize_request(token_ids, "").token_ids) == IDS
    lists: Sequence[Any] = [token_ids, token_ids[:1]]
    built = build_request(token_ids=lists).token_id_lists.lists
    assert [list(each.ids) for each in built] == [IDS, IDS[:1]]


def test_rows_of_an_array_are_prompts() -> None:
    rows: Any = np.array([[1, 2], [3, 4]])
    built = build_request(token_ids=rows).token_id_lists.lists
    assert [list(each.ids) for each in built] == [[1, 2], [3, 4]]


@pytest.mark.parametrize("token_ids", ["5", ["5"], [1.5], [-1], 5, np.array([0.5])], ids=repr)
def test_what_are_no_tokens(token_ids: Any) -> None:
    with pytest.raises(InvalidRequest):
        build_request(token_ids=token_ids)


def test_no_tokens_are_a_prompt_that_the_gateway_refuses() -> None:
    none: Any = np.array([], np.int64)
    assert build_request(token_ids=none) == build_request(token_ids=[])


ANY: Any = None
OPENAI_CALL = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def test_none_is_as_good_as_absent() -> None:
    given = build_request(prompt="Hi", messages=ANY, logit_bias=ANY, stop=ANY, n=ANY, regex=ANY)
    assert given == build_request(prompt="Hi")
    messages: Any = [{"role": "assistant", "content": None, "tool_calls": None, "name": None}]
    (message,) = build_tokenize_request(messages=messages, tools=ANY).chat.messages
    assert (message.role, message.content) == ("assistant", "")


@pytest.mark.parametrize("role", ["system", "user", "tool"])
@pytest.mark.parametrize("build", [build_request, build_tokenize_request])
def test_only_an_assistants_message_may_have_no_content(build: Any, role: str) -> None:
    for message in ({"role": role, "content": None}, {"role": role}):
        with pytest.raises(InvalidRequest, match="must have content") as caught:
            build(messages=[message])
        assert caught.value.param == "messages"
    assert build(messages=[{"role": role, "content": ""}]).chat.messages[0].content == ""


def test_all_tokens_may_be_candidates() -> None:
    assert build_request(prompt="Hi", top_k=-1).top_k == 0


def test_calls_are_taken_in_either_form() -> None:
    def chat(call: Any) -> Any:
        return build_request(messages=[{"role": "assistant", "content": "", "tool_calls": [call]}])

    assert chat(OPENAI_CALL) == chat(ToolCall("a", "f", "{}"))


def test_variables_of_the_chat_template_go_with_messages() -> None:
    kwargs: Any = {"enable_thinking": False}
    user: Any = {"role": "user", "content": "Hi"}
    for chat in (
        build_request(chat_template_kwargs=kwargs, messages=[user]).chat,
        build_tokenize_request(messages=[user], chat_template_kwargs=kwargs).chat,
    ):
        assert chat.template_kwargs == '{"enable_thinking": false}'
        assert [message.content for message in chat.messages] == ["Hi"]
    for build in (build_request, build_tokenize_request):
        with pytest.raises(InvalidRequest) as caught:
            build(prompt="Hi", chat_template_kwargs=kwargs)
        assert caught.value.param == "chat_template_kwargs"


def test_content_may_be_text_parts() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    (message,) = build_request(messages=[{"role": "user", "content": parts}]).chat.messages
    assert message.content == "a\nb"


@pytest.mark.parametrize(
    ("arguments", "param", "message"),
    [
        ({"prompt": None}, None, "one of prompt, token_ids"),
        ({"token_ids": [1]}, None, "one of prompt, token_ids"),
        ({"regex": "a", "grammar": "b"}, None, "only one of json_object"),
        ({"flux": 1}, "flux", "flux"),
        ({"prompt": "\ud800"}, "prompt", "prompt cannot be encoded"),
        ({"prompt": None, "token_ids": [-1]}, "token_ids", "token_ids cannot be encoded"),
        ({"max_tokens": -1}, "max_tokens", "max_tokens cannot be encoded"),
        ({"max_tokens": 2**32}, "max_tokens", "max_tokens cannot be encoded"),
        ({"temperature": "hot"}, "temperature", "temperature cannot be encoded"),
        ({"top_k": -2}, "top_k", "top_k cannot be encoded"),
        ({"json_schema": {1, 2}}, "json_schema", "json_schema cannot be encoded"),
        ({"tools": 5}, "tools", "tools cannot be encoded"),
        ({"logit_bias": [1]}, "logit_bias", "logit_bias cannot be encoded"),
        ({"tool_choice": "any"}, "tool_choice", "must be one of none, auto, required, or name"),
        ({"tool_choice": {"name": "f"}}, "tool_choice", "tool_choice lacks 'function'"),
        ({"tools": [{"name": "f"}]}, "tools", "tools lacks 'function'"),
        ({"n": "2"}, "n", "n cannot be encoded"),
        ({"regex": 5}, "regex", "regex cannot be encoded"),
        ({"tools": np.zeros((2, 2))}, "tools", "tools cannot be encoded"),
        ({"tool_choice": np.zeros(2)}, "tool_choice", "tool_choice cannot be encoded"),
    ],
)
def test_what_cannot_be_sent_is_named(arguments: Any, param: str, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message) as caught:
        build_request(**{"prompt": "Hi", **arguments})
    assert caught.value.param == param


@pytest.mark.parametrize(
    "build",
    [
        build_tokenize_request,
        lambda: build_tokenize_request(prompt="a", messages=[]),
        lambda: build_detokenize_request([-1], ""),
    ],
)
def test_what_cannot_be_sent_to_be_tokenised(build: Callable[[], object]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        build()
    assert caught.value.param is None


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ({"content": [{"type": "image_url", "image_url": {}}]}, "only text parts are served"),
        ({"content": 5}, "messages cannot be encoded"),
        ({"content": np.zeros(2)}, "messages cannot be encoded"),
        ({"content": "", "tool_calls": [{"id": "a"}]}, "messages lacks 'function'"),
    ],
)
def test_a_message_that_cannot_be_sent(message: Any, error: str) -> None:
    with pytest.raises(InvalidRequest, match=error) as caught:
        build_request(messages=[{"role": "user", **message}])
    assert caught.value.param == "messages"
