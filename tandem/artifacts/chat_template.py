"""A model's chat template: messages in, prompt text out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence, Set
from datetime import datetime
from types import MappingProxyType
from typing import NoReturn

import jinja2
from jinja2 import meta, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tandem.core.errors import ConfigError, InvalidRequest

# No template says so by itself.
SYSTEM_WORDS = "does-it-take-a-system-message"
NO_KWARGS: Mapping[str, object] = MappingProxyType({})


class ChatTemplate:
    """A compiled template. It comes with the model, from strangers, so it runs in Jinja's immutable
    sandbox. May be rendered by several threads at once."""

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        """`special_tokens` (`bos_token`, `eos_token`, ...) are the template's variables besides the
        messages. Raises `ConfigError` when the template is not valid Jinja."""
        self.source = source
        self._special_tokens = dict(special_tokens)
        environment = _environment()
        try:
            self._template = environment.from_string(source)
            variables = meta.find_undeclared_variables(environment.parse(source))
        except (jinja2.TemplateError, RecursionError) as error:
            raise ConfigError(
                f"the model's chat template is not valid Jinja ({error}): correct its"
                " chat_template.jinja or the chat_template in tokenizer_config.json"
            ) from error
        self.takes_tools = "tools" in variables
        self.takes_system = self._shows_system()

    def render(
        self,
        messages: Sequence[Mapping[str, object]],
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, object]] | None = None,
        kwargs: Mapping[str, object] = NO_KWARGS,
    ) -> str:
        """The prompt's text, special tokens included. Only a template that `takes_tools` shows the
        tools. `kwargs` are variables that it may ask for besides.

        Raises `InvalidRequest` for what the template refuses or does not understand, and for a
        variable that has its value already.
        """
        variables = {
            "messages": messages,
            # Templates ask whether these are none, as transformers always passes them.
            "tools": tools,
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
            **self._special_tokens,
        }
        _check_names(kwargs, variables.keys() | self._template.globals.keys())
        try:
            return self._template.render({**variables, **kwargs})
        except InvalidRequest:
            raise
        except Exception as error:
            # A template is a program and may fail in any way. What it says of itself is of no use
            # to a client, and would show the server's insides.
            raise InvalidRequest(
                "the model's chat template cannot render these messages", param="messages"
            ) from error

    def _shows_system(self) -> bool:
        """Whether it says what a system message does, instead of refusing it or leaving it out."""
        system = {"role": "system", "content": SYSTEM_WORDS}
        try:
            return SYSTEM_WORDS in self.render([system, {"role": "user", "content": "Hi"}])
        except InvalidRequest:
            return False


class GenerationBlock(Extension):
    """`{% generation %}`, which marks the assistant's words for training, means nothing here."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares it as a plain set

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _check_names(kwargs: Mapping[str, object], taken: Set[str]) -> None:
    if doubled := sorted(taken & kwargs.keys()):
        raise InvalidRequest(
            f"chat_template_kwargs: {doubled[0]} cannot be set", param="chat_template_kwargs"
        )


def _environment() -> ImmutableSandboxedEnvironment:
    """The environment that chat templates are written for: transformers'."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[GenerationBlock, "jinja2.ext.loopcontrols"],
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


def _tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own filter escapes for HTML.
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: object) -> NoReturn:
    # The template's own refusal is written for whoever wrote the messages.
    raise InvalidRequest(f"the model's chat template refuses: {message}", param="messages")


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)
