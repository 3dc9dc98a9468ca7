"""The fields that say what an answer must look like: OpenAI's and vLLM's."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from gateway import grammars
from gateway.http.schemas.base import Body
from tandem.core.errors import InvalidRequest
from tandem.core.grammar import Grammar


class JsonSchemaFormat(Body):
    """A named JSON schema. It is kept strictly whether or not it says `strict`."""

    name: str | None = None
    description: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None


class ResponseFormat(Body):
    """OpenAI's `response_format`."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None

    def grammar(self) -> Grammar | None:
        """None for plain text. Raises `InvalidRequest`."""
        match self.type:
            case "text":
                return None
            case "json_object":
                return grammars.json_object()
            case "json_schema":
                if self.json_schema is None or self.json_schema.schema_ is None:
                    raise InvalidRequest(
                        "response_format: json_schema.schema is needed", param="response_format"
                    )
                return _json(self.json_schema.schema_, "response_format")


class StructuredOutputs(Body):
    """vLLM's `structured_outputs`, of which exactly one field is given."""

    json_: str | dict[str, Any] | None = Field(None, alias="json")
    regex: str | None = None
    choice: Annotated[list[str], Field(fail_fast=True)] | None = None
    grammar: str | None = None
    json_object: bool | None = None


def read_grammar(
    response_format: ResponseFormat | None,
    structured: StructuredOutputs | None,
    *,
    guided_json: str | dict[str, Any] | None,
    guided_regex: str | None,
    guided_choice: list[str] | None,
    guided_grammar: str | None,
) -> tuple[str, Grammar | None]:
    """The field that asks for one, and it; None if none does. Raises `InvalidRequest` for more than
    one."""
    found = {
        "response_format": response_format.grammar() if response_format else None,
        "structured_outputs": _structured(structured) if structured else None,
        "guided_json": _json(guided_json, "guided_json") if guided_json is not None else None,
        "guided_regex": _regex(guided_regex, "guided_regex"),
        "guided_choice": _choice(guided_choice, "guided_choice"),
        "guided_grammar": _lark(guided_grammar, "guided_grammar"),
    }
    return _only({name: grammar for name, grammar in found.items() if grammar is not None})


def _structured(wanted: StructuredOutputs) -> Grammar:
    param = "structured_outputs"
    found = {
        "json": _json(wanted.json_, param) if wanted.json_ is not None else None,
        "regex": _regex(wanted.regex, param),
        "choice": _choice(wanted.choice, param),
        "grammar": _lark(wanted.grammar, param),
        "json_object": grammars.json_object() if wanted.json_object else None,
    }
    given = [grammar for grammar in found.values() if grammar is not None]
    if len(given) != 1:
        raise InvalidRequest(f"{param} must have exactly one of {', '.join(found)}", param=param)
    return given[0]


def _only(found: dict[str, Grammar]) -> tuple[str, Grammar | None]:
    if len(found) > 1:
        raise InvalidRequest(f"only one of {', '.join(found)} can be served", param=[*found][1])
    return next(iter(found.items()), ("response_format", None))


def _json(schema: str | dict[str, Any], param: str) -> Grammar:
    text = schema if isinstance(schema, str) else grammars.schema_text(schema, param)
    return grammars.json_schema(text, param)


def _regex(pattern: str | None, param: str) -> Grammar | None:
    return None if pattern is None else grammars.regex(pattern, param)


def _choice(texts: list[str] | None, param: str) -> Grammar | None:
    return None if texts is None else grammars.one_of(texts, param)


def _lark(source: str | None, param: str) -> Grammar | None:
    return None if source is None else grammars.lark(source, param)
