"""What the bodies of all requests have in common."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import Annotated, Any, get_args

from pydantic import BaseModel, ConfigDict, Field, InstanceOf
from pydantic.json_schema import SkipJsonSchema

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


def bodies_within(annotation: Any) -> Iterator[type[Body]]:
    """The kinds of bodies that a field of this type may hold."""
    if isinstance(annotation, type) and issubclass(annotation, Body):
        yield annotation
    for inner in get_args(annotation):
        yield from bodies_within(inner)
