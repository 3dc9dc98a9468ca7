"""What is wrong with a body that its model does not take, and where."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache

from pydantic import BaseModel, ValidationError

from gateway.http.schemas.base import bodies_within
from tandem.core.errors import InvalidRequest

# Of a mapping every item may be wrong; one of the first is as good to name.
MAX_ERRORS = 64
INDEX = re.compile(r"\[\d+\]")

# Instead of pydantic's words, which name our own classes.
MESSAGES: Mapping[str, str] = {"model_type": "Input should be an object"}
# Of fields, as in `unserved.py` the same for all items of a list.
HINTS: Mapping[str, str] = {"messages[].content[].type": "; only text parts are served"}

Path = Sequence[str | int]


def invalid_body(model: type[BaseModel], error: ValidationError) -> InvalidRequest:
    """One of its errors. A field that may be of several types has one for each of them, or more:
    what was meant is the type that is right up to the furthest place."""
    errors = error.errors(include_url=False, include_input=False)[:MAX_ERRORS]
    # What is not declared, and must not be there, is named as well.
    extra = {each["loc"][-1] for each in errors if each["type"] == "extra_forbidden"}
    names = _declared_names(model) | extra
    # The other parts of a place are the names of types, and the keys of what may have any.
    found = [
        ([part for part in each["loc"] if isinstance(part, int) or part in names], each)
        for each in errors
    ]
    path, chosen = max(found, key=lambda each: (each[1]["type"] == "too_long", *_depth(each[0])))
    where = _written(path)
    message = MESSAGES.get(chosen["type"], chosen["msg"]) + HINTS.get(INDEX.sub("[]", where), "")
    return InvalidRequest(f"{where or 'body'}: {message}", param=str(path[0]) if path else None)


def _depth(path: Path) -> tuple[int, list[int]]:
    return len(path), [part for part in path if isinstance(part, int)]


def _written(path: Path) -> str:
    """As in `messages[1].role`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)[1:]


@cache
def _declared_names(model: type[BaseModel]) -> frozenset[str]:
    """Of its fields and of those of the bodies within it, as clients write them."""
    fields = model.model_fields.items()
    own = (field.alias or name for name, field in fields)
    inner = (
        _declared_names(body) for _, field in fields for body in bodies_within(field.annotation)
    )
    return frozenset(own).union(*inner)
