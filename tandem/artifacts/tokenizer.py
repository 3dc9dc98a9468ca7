"""Text to token ids and back, and messages to prompt text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path

import tokenizers

from tandem.artifacts.chat_template import NO_KWARGS, ChatTemplate
from tandem.artifacts.decode_stream import DecodeStream
from tandem.artifacts.json_object import JsonObject, read_json_object
from tandem.artifacts.special_tokens import special_tokens
from tandem.artifacts.token_bytes import TokenBytes
from tandem.core.errors import ConfigError, InvalidRequest

# As transformers calls the templates of a list.
FOR_CHAT, FOR_TOOLS = "default", "tool_use"
NO_SPECIAL_IDS: frozenset[int] = frozenset()


class Tokenizer:
    """A model's tokenizer and chat template.

    Immutable after it is made. Every method may be called from several threads at once; `encode`
    and `decode` release the GIL.
    """

    def __init__(
        self,
        tokenizer: tokenizers.Tokenizer,
        chat_template: ChatTemplate | None = None,
        tool_template: ChatTemplate | None = None,
    ) -> None:
        """`tool_template` is for conversations with tools, where they have one of their own."""
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._tokenizer = tokenizer
        self._chat_template = chat_template
        self._tool_template = tool_template or chat_template
        added = tokenizer.get_added_tokens_decoder()
        self._special_names = {i: token.content for i, token in added.items() if token.special}
        self._special_ids = frozenset(self._special_names)
        self._token_bytes = TokenBytes(tokenizer)
        self.special_tokens = tuple(self._special_names.values())

    @classmethod
    def open(cls, folder: Path) -> Tokenizer:
        """Read `tokenizer.json`, which must be there, and `tokenizer_config.json`,
        `special_tokens_map.json` and `chat_template.jinja`. Raises `ConfigError`."""
        tokenizer = _read_tokenizer(folder / "tokenizer.json")
        tokens = special_tokens(folder)
        sources = read_chat_templates(folder)
        templates = {name: ChatTemplate(source, tokens) for name, source in sources.items()}
        return cls(tokenizer, templates.get(FOR_CHAT), templates.get(FOR_TOOLS))

    @property
    def vocab_size(self) -> int:
        """Number of token ids, the added tokens included."""
        return self._tokenizer.get_vocab_size(with_added_tokens=True)

    def to_json(self) -> str:
        """The text of its `tokenizer.json`."""
        return self._tokenizer.to_str()

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        """Token ids of `text`. A special token written out in the text becomes that token.

        `add_special_tokens` adds what the model expects around a plain text, such as a BOS; chat
        templates write those themselves. Raises `InvalidRequest` for what is not Unicode.
        """
        try:
            # The batch of one releases the GIL; `encode` would hold it for the whole text.
            (encoding,) = self._tokenizer.encode_batch_fast(
                [text], add_special_tokens=add_special_tokens
            )
            return list(encoding.ids)
        except (TypeError, UnicodeEncodeError) as error:
            raise InvalidRequest("the text is not valid Unicode: it has lone surrogates") from error

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """The text of `token_ids`; bytes that are not UTF-8 as U+FFFD, unknown ids as nothing.

        Raises `InvalidRequest` for numbers that cannot be ids."""
        try:
            return self._tokenizer.decode(token_ids, skip_special_tokens=skip_special_tokens)
        except OverflowError as error:
            raise InvalidRequest("token ids must be in [0, 2**32)") from error

    def decode_stream(
        self,
        skip_special_tokens: bool = True,
        kept: frozenset[int] = NO_SPECIAL_IDS,
        prompt: Iterable[int] = (),
    ) -> DecodeStream:
        """A detokeniser for one sequence whose tokens come one by one. `kept` are special tokens
        that are not skipped with the others. The text is what those tokens say behind that of
        `prompt`, if it has any; a character that the prompt began stays incomplete."""
        return self.decode_streams(skip_special_tokens, kept, prompt)()

    def decode_streams(
        self, skip_special_tokens: bool, kept: frozenset[int], prompt: Iterable[int]
    ) -> Callable[[], DecodeStream]:
        """What makes a detokeniser for each of the sequences that go on from one prompt, which is
        looked through for something to go on from."""
        skipped = self._special_ids - kept if skip_special_tokens else NO_SPECIAL_IDS
        is_continuation = not skipped.issuperset(prompt)
        return partial(
            DecodeStream, self._tokenizer, skipped, self._lead, is_continuation=is_continuation
        )

    @cached_property
    def _lead(self) -> tuple[int, ...]:
        """Tokens that stand for what is before a text. A prompt's own would not do: they may end
        within a character."""
        return tuple(self.encode("a"))

    def special_id(self, token: str) -> int | None:
        """The id of a special token, None if there is none of this text."""
        token_id = self._tokenizer.token_to_id(token)
        return token_id if token_id in self._special_ids else None

    def special_name(self, token_id: int) -> str:
        """How a special token is written, "" if it is none."""
        return self._special_names.get(token_id, "")

    def token_bytes(self, token_id: int) -> bytes:
        """What one token says by itself: bytes, since a character may be spread over several. Empty
        for an id that is none of its own."""
        return self._token_bytes(token_id)

    @property
    def chat_template(self) -> ChatTemplate | None:
        """The model's, if it has one."""
        return self._chat_template

    @property
    def tool_template(self) -> ChatTemplate | None:
        """What renders a conversation with tools: mostly the same."""
        return self._tool_template

    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, object]],
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, object]] | None = None,
        template_kwargs: Mapping[str, object] = NO_KWARGS,
    ) -> str:
        """The prompt for a conversation, to be encoded without further special tokens. `tools` are
        in OpenAI's form, `template_kwargs` further variables of the template.

        Raises `InvalidRequest` for a model without a template and for what it refuses.
        """
        template = self._chat_template if tools is None else self._tool_template
        if template is None:
            raise InvalidRequest(
                "this model has no chat template: send a prompt to /v1/completions instead",
                param="messages",
            )
        return template.render(messages, add_generation_prompt, tools, template_kwargs)


def _read_tokenizer(path: Path) -> tokenizers.Tokenizer:
    if not path.is_file():
        raise ConfigError(f"{path} is missing: a model folder must hold it")
    try:
        return tokenizers.Tokenizer.from_file(str(path))
    except BaseException as error:  # the library raises nothing narrower
        if not (isinstance(error, Exception) or _is_panic(error)):
            raise
        raise ConfigError(f"{path} is not a valid tokenizer ({error}): fetch it again") from error


def _is_panic(error: BaseException) -> bool:
    """Whether the library met in its file what it never thought of. That is no `Exception`, and of
    a class that is nowhere to be imported from."""
    return type(error).__module__ == "pyo3_runtime"


def read_chat_templates(folder: Path) -> dict[str, str]:
    """By `FOR_CHAT` and `FOR_TOOLS`, what there is of them."""
    file = folder / "chat_template.jinja"
    if file.exists() and (source := _template_file(file)):
        return {FOR_CHAT: source}
    config = folder / "tokenizer_config.json"
    return _template_field(read_json_object(config)) if config.exists() else {}


def _template_file(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {path} as UTF-8 text") from error


def _template_field(config: JsonObject) -> dict[str, str]:
    """`chat_template` is a string, or a list of named ones."""
    if not config.has("chat_template"):
        return {}
    templates = config.data["chat_template"]
    if not isinstance(templates, list):
        return {FOR_CHAT: config.text("chat_template")}
    named = {item.get("name"): item for item in templates if isinstance(item, dict)}
    if FOR_CHAT not in named:
        raise config.wrong("chat_template", f"one of the templates to be named {FOR_CHAT!r}")
    return {
        name: JsonObject(named[name], config.source).text("template")
        for name in (FOR_CHAT, FOR_TOOLS)
        if name in named
    }
