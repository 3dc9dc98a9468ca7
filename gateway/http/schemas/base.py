"""What the bodies of all requests have in common."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import Annotated, Any, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, InstanceOf
from pydantic.json_schema import SkipJsonSchema
from pydantic_core import PydanticKnownError

from gateway.limits import MAX_PROMPT_TOKENS

# A long one has been read, and counted, already: `gateway.http.long_lists`.
TokenIds = (
    Annotated[list[int], Field(max_length=MAX_PROMPT_TOKENS, fail_fast=True)]
    | SkipJsonSchema[InstanceOf[array]]  # type: ignore[type-arg]  # (no generic until 3.12)
)


class Body(BaseModel):
    """An object of a request, read strictly."""

    # No coercion: "5" is not 5. What is not declared is kept, to be refused or warned of.
    model_config = ConfigDict(strict=True, extra="allow")


def at_most(most: int) -> BeforeValidator:
    """That a mapping has no more entries: before each of them is looked at, and has an error."""

    def check(value: Any) -> Any:
        if isinstance(value, dict) and len(value) > most:
            raise PydanticKnownError(
                "too_long",
                {"field_type": "Dictionary", "max_length": most, "actual_length": len(value)},
            )
        return value

    return BeforeValidator(check)


def bodies_within(annotation: Any) -> Iterator[type[Body]]:
    """The kinds of bodies that a field of this type may hold."""
    if isinstance(annotation, type) and issubclass(annotation, Body):
        yield annotation
    for inner in get_args(annotation):
        yield from bodies_within(inner)
