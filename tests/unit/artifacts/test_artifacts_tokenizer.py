import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.artifacts.decode_stream import MAX_HELD
from tandem.artifacts.resolve import MOCK_FOLDER, resolve
from tandem.artifacts.tokenizer import Tokenizer
from tandem.core.errors import ConfigError, InvalidRequest

TOKENIZER = resolve("mock").tokenizer()
MESSAGES = [{"role": "user", "content": "hi"}]
START, END = 257, 258


def stream(token_ids: list[int], skip_special_tokens: bool = True) -> str:
    stream = TOKENIZER.decode_stream(skip_special_tokens)
    return "".join([stream.push(token_id) for token_id in token_ids] + [stream.flush()])


def folder_with_template(tmp_path: Path, template: object, **config: object) -> Path:
    (tmp_path / "tokenizer.json").write_bytes((MOCK_FOLDER / "tokenizer.json").read_bytes())
    config |= {"chat_template": template}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    return tmp_path


def render(tmp_path: Path, template: str, **config: object) -> str:
    tokenizer = Tokenizer.open(folder_with_template(tmp_path, template, **config))
    return tokenizer.apply_chat_template(MESSAGES)


@given(st.text())
def test_text_comes_back(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


@given(st.text(), st.booleans())
def test_a_stream_of_text_is_the_text(text: str, skip: bool) -> None:
    assert stream(TOKENIZER.encode(text), skip) == text


@given(st.lists(st.integers(0, 259), max_size=MAX_HELD - 1), st.booleans())
def test_a_stream_of_any_tokens_is_their_text(token_ids: list[int], skip: bool) -> None:
    assert stream(token_ids, skip) == TOKENIZER.decode(token_ids, skip)


def test_a_stream_holds_back_an_incomplete_character() -> None:
    stream = TOKENIZER.decode_stream()
    assert [stream.push(token_id) for token_id in "é€".encode()] == ["", "é", "", "", "€"]
    assert stream.push(0xE2) == ""
    assert stream.flush() == "\ufffd"
    assert stream.flush() == ""


def test_special_tokens_show_only_if_asked_for() -> None:
    assert stream([START, 65, END]) == "A"
    assert stream([START, 65, END], skip_special_tokens=False) == "<|im_start|>A<|im_end|>"
    # One within a character does not tear it apart.
    assert stream([0xC3, END, 0xA9]) == "é"


def test_a_stream_does_not_hold_back_for_ever() -> None:
    stream = TOKENIZER.decode_stream()
    shown = "".join(stream.push(0x80) for _ in range(3 * MAX_HELD))
    assert shown == "\ufffd" * (3 * MAX_HELD)


def test_threads_may_share_a_tokenizer() -> None:
    texts = [f"text number {number} €" * 20 for number in range(200)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(TOKENIZER.encode, texts)) == [list(t.encode()) for t in texts]


def test_lone_surrogates_are_the_callers_fault() -> None:
    with pytest.raises(InvalidRequest, match="surrogates"):
        TOKENIZER.encode("\ud800")


def test_ids_out_of_range_are_the_callers_fault() -> None:
    with pytest.raises(InvalidRequest, match="token ids"):
        TOKENIZER.decode([-1])


def test_chatml() -> None:
    prompt = "<|im_start|>user\nhi<|im_end|>\n"
    assert TOKENIZER.apply_chat_template(MESSAGES, add_generation_prompt=False) == prompt
    prompt += "<|im_start|>assistant\n"
    assert TOKENIZER.apply_chat_template(MESSAGES) == prompt
    assert TOKENIZER.encode(prompt).count(START) == 2


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages.__class__.__mro__ }}{{ ''.__class__.__base__.__subclasses__()[0] }}",
        "{{ messages.append(1) }}",
        "{{ raise_exception.__globals__['__builtins__'] }}",
        "{{ ''.format.__globals__ }}{{ '{0.__class__.mro}'.format(messages)() }}",
        "{% for i in range(10**9) %}{% endfor %}",
        "{{ 1 // 0 }}",
        "{{ messages[0].content.nothing.at_all }}",
    ],
)
def test_a_hostile_or_failing_template_is_refused(tmp_path: Path, template: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        render(tmp_path, template)
    assert caught.value.param == "messages"
    assert caught.value.message == "the model's chat template cannot render these messages"


def test_a_templates_own_refusal_is_passed_on(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="roles must alternate") as caught:
        render(tmp_path, "{{ raise_exception('roles must alternate') }}")
    assert caught.value.param == "messages"


def test_what_templates_rely_on(tmp_path: Path) -> None:
    template = (
        "{% for m in messages %}\n  {% if loop.first %}\n{{ bos_token }}{{ m | tojson }}"
        "{% endif %}\n{% break %}{% endfor %}{% generation %}<é>{% endgeneration %}"
        "{{ tools is none }}{{ strftime_now('%Y') | length }}{{ eos_token }}"
    )
    text = render(tmp_path, template, bos_token="<s>", eos_token={"content": "</s>"})
    assert text == '<s>{"role": "user", "content": "hi"}<é>True4</s>'


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({}, "<m></m>"),
        ({"bos_token": "<c>"}, "<m></m>"),
        ({"bos_token": "<c>", "added_tokens_decoder": {}}, "<c>"),
    ],
)
def test_special_tokens_of_the_older_file(
    tmp_path: Path, config: dict[str, object], text: str
) -> None:
    older = {"bos_token": "<m>", "eos_token": {"content": "</m>"}}
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(older))
    assert render(tmp_path, "{{ bos_token }}{{ eos_token }}", **config) == text


def test_a_template_may_have_variables_of_the_requests(tmp_path: Path) -> None:
    template = "{% if enable_thinking is defined and not enable_thinking %}no {% endif %}thinking"
    folder = folder_with_template(tmp_path, template, bos_token="<s>")
    render = Tokenizer.open(folder).apply_chat_template
    assert render(MESSAGES) == "thinking"
    assert render(MESSAGES, template_kwargs={"enable_thinking": False}) == "no thinking"
    assert render(MESSAGES, template_kwargs={"self": "", "a b": ""}) == "thinking"
    for name in ("messages", "tools", "documents", "bos_token", "raise_exception", "range"):
        with pytest.raises(InvalidRequest, match=f"{name} cannot be set") as caught:
            render(MESSAGES, template_kwargs={name: ""})
        assert caught.value.param == "chat_template_kwargs"


def test_the_default_of_several_templates_is_for_chat(tmp_path: Path) -> None:
    named = [{"name": "rag", "template": "no"}, {"name": "default", "template": "yes"}]
    tokenizer = Tokenizer.open(folder_with_template(tmp_path, named))
    assert tokenizer.apply_chat_template(MESSAGES) == "yes"


def test_tools_may_have_a_template_of_their_own(tmp_path: Path) -> None:
    named = {"tool_use": "{{ tools | length }} tools", "default": "no tools"}
    templates = [{"name": name, "template": source} for name, source in named.items()]
    tokenizer = Tokenizer.open(folder_with_template(tmp_path, templates))
    assert tokenizer.apply_chat_template(MESSAGES) == "no tools"
    assert tokenizer.apply_chat_template(MESSAGES, tools=[{}]) == "1 tools"


def test_the_template_file_comes_first(tmp_path: Path) -> None:
    folder = folder_with_template(tmp_path, "config")
    (folder / "chat_template.jinja").write_text("file")
    assert Tokenizer.open(folder).apply_chat_template(MESSAGES) == "file"


def test_a_template_with_a_syntax_error_is_the_operators_fault(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not valid Jinja"):
        Tokenizer.open(folder_with_template(tmp_path, "{% if %}"))


def test_without_a_template_completions_are_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="/v1/completions") as caught:
        Tokenizer.open(folder_with_template(tmp_path, None)).apply_chat_template(MESSAGES)
    assert caught.value.param == "messages"
