"""What single tokens say, in the vocabularies of both kinds."""

from __future__ import annotations

import json

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models

from tandem.artifacts.chat_template import ChatTemplate
from tandem.artifacts.resolve import resolve
from tandem.artifacts.token_bytes import TokenBytes

MOCK = resolve("mock").tokenizer()


@given(st.text())
def test_the_tokens_of_a_text_say_its_bytes(text: str) -> None:
    assert b"".join(map(MOCK.token_bytes, MOCK.encode(text))) == text.encode()


def test_special_tokens_say_their_names() -> None:
    assert MOCK.token_bytes(256) == b"<|endoftext|>"
    for unknown in (260, -1, 2**40):
        assert MOCK.token_bytes(unknown) == b""


def test_sentencepieces_vocabulary() -> None:
    pieces = {"\u2581the": 0, "<0xE2>": 1, "\u00e9": 2, "\u2581": 3}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=pieces, merges=[], byte_fallback=True))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback()]
    )
    tokenizer.add_special_tokens([AddedToken("</s>", special=True)])
    token_bytes = TokenBytes(tokenizer)
    said = [token_bytes(token_id) for token_id in range(5)]
    assert said == [b" the", b"\xe2", "\u00e9".encode(), b" ", b"</s>"]
    assert token_bytes(0) is said[0], "it is read again"


def test_a_special_token_can_be_kept() -> None:
    opening = MOCK.special_id("<|im_start|>")
    assert opening == 257
    assert MOCK.special_id("a") is None and MOCK.special_id("no token") is None
    stream = MOCK.decode_stream(kept=frozenset({opening}))
    assert [stream.push(each) for each in (257, 65, 258)] == ["<|im_start|>", "A", ""]


def test_a_template_says_whether_it_takes_tools() -> None:
    source = "{% if tools %}{{ tools | tojson }}{% endif %}{{ messages[0].content }}"
    template = ChatTemplate(source, {})
    assert template.takes_tools and template.source == source
    messages, tools = [{"role": "user", "content": "Hi"}], [{"type": "function"}]
    assert template.render(messages, tools=tools) == json.dumps(tools) + "Hi"
    assert template.render(messages) == "Hi"
    assert not ChatTemplate("{{ messages }}{# tools #}", {}).takes_tools


@pytest.mark.parametrize(
    ("source", "takes_system"),
    [
        ("{{ messages[0].role }}: {{ messages[0].content }}", True),
        ("{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}", False),
        ("{{ messages[1].content }}", False),
        ("{{ no.such.thing }}", False),
    ],
)
def test_a_template_says_whether_it_takes_a_system_message(source: str, takes_system: bool) -> None:
    assert ChatTemplate(source, {}).takes_system == takes_system


@pytest.mark.model
def test_the_default_models_vocabulary() -> None:
    tokenizer = resolve("default").tokenizer()
    text = "Gr\u00fc\u00dfe, \u4e16\u754c \U0001f4a5\n  def f(x):"
    assert b"".join(map(tokenizer.token_bytes, tokenizer.encode(text))).decode() == text
