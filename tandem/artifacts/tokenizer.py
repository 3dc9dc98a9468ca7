"""Text to token ids and back, and messages to prompt text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import tokenizers

from tandem.artifacts.chat_template import NO_KWARGS, ChatTemplate
from tandem.artifacts.decode_stream import DecodeStream
from tandem.artifacts.json_object import JsonObject, read_json_object
from tandem.artifacts.special_tokens import special_tokens
from tandem.artifacts.token_bytes import TokenBytes
from tandem.core.errors import ConfigError, InvalidRequest

NO_SPECIAL_IDS: frozenset[int] = frozenset()


class Tokenizer:
    """A model's tokenizer and chat template.

    Immutable after it is made. Every method may be called from several threads at once; `encode`
    and `decode` release the GIL.
    """

    def __init__(
        self, tokenizer: tokenizers.Tokenizer, chat_template: ChatTemplate | None = None
    ) -> None:
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._tokenizer = tokenizer
        self._chat_template = chat_template
        added = tokenizer.get_added_tokens_decoder()
        self._special_ids = frozenset(i for i, token in added.items() if token.special)
        self._token_bytes = TokenBytes(tokenizer)
        self.special_tokens = tuple(token.content for token in added.values() if token.special)

    @classmethod
    def open(cls, folder: Path) -> Tokenizer:
        """Read `tokenizer.json`, which must be there, and `tokenizer_config.json`,
        `special_tokens_map.json` and `chat_template.jinja`. Raises `ConfigError`."""
        return cls(_read_tokenizer(folder / "tokenizer.json"), _read_chat_template(folder))

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
        skipped = self._special_ids - kept if skip_special_tokens else NO_SPECIAL_IDS
        is_continuation = any(token_id not in skipped for token_id in prompt)
        return DecodeStream(self._tokenizer, skipped, self._lead, is_continuation=is_continuation)

    @cached_property
    def _lead(self) -> tuple[int, ...]:
        """Tokens that stand for what is before a text. A prompt's own would not do: they may end
        within a character."""
        return tuple(self.encode("a"))

    def special_id(self, token: str) -> int | None:
        """The id of a special token, None if there is none of this text."""
        token_id = self._tokenizer.token_to_id(token)
        return token_id if token_id in self._special_ids else None

    def token_bytes(self, token_id: int) -> bytes:
        """What one token says by itself: bytes, since a character may be spread over several. Empty
        for an id that is none of its own."""
        return self._token_bytes(token_id)

    @property
    def chat_template(self) -> ChatTemplate | None:
        """The model's, if it has one."""
        return self._chat_template

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
        if self._chat_template is None:
            raise InvalidRequest(
                "this model has no chat template: send a prompt to /v1/completions instead",
                param="messages",
            )
        return self._chat_template.render(messages, add_generation_prompt, tools, template_kwargs)


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


def _read_chat_template(folder: Path) -> ChatTemplate | None:
    config_path = folder / "tokenizer_config.json"
    config = read_json_object(config_path) if config_path.exists() else JsonObject({}, "")
    source = _template_file(folder / "chat_template.jinja") or _template_field(config)
    if source is None:
        return None
    return ChatTemplate(source, special_tokens(folder))


def _template_file(path: Path) -> str | None:
    if not path.exists():
        return None
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {path} as UTF-8 text") from error


def _template_field(config: JsonObject) -> str | None:
    """`chat_template` is a string, or a list of named ones of which `default` is for chat."""
    if not config.has("chat_template"):
        return None
    templates = config.data["chat_template"]
    if not isinstance(templates, list):
        return config.text("chat_template")
    named = {item.get("name"): item for item in templates if isinstance(item, dict)}
    if "default" not in named:
        raise config.wrong("chat_template", "one of the templates to be named 'default'")
    return JsonObject(named["default"], config.source).text("template")
