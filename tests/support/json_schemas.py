"""Random JSON schemas whose instances are short, and satisfiable by construction."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

Schema = dict[str, Any]

NODE = {"$ref": "#/$defs/node"}
NAMES = ("a", "name", "été", 'say "hi"', "x_1", "tags", "$ref", "type")
PATTERNS = (
    "^[a-f]{1,5}$",
    "^(cat|dog)s?$",
    r"^\d{2}-\d{2}$",
    '^[^"x-z]{0,4}$',
    "^a+b?$",
    r"^\w{2}$",
)
# Of bounded length, as everything here: random logits do not come to an end of an e-mail address.
FORMATS = ("date", "uuid", "ipv4")
# What a real vocabulary can spell: many have no tokens for the bytes of unassigned characters.
TEXT = st.text(st.characters(codec="latin-1") | st.sampled_from("€😀"), max_size=4)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | TEXT,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXT, inner, max_size=2),
    max_leaves=4,
)


@st.composite
def strings(draw: st.DrawFn) -> Schema:
    shape = draw(st.sampled_from(("length", "pattern", "both", "format")))
    low, more = draw(st.integers(0, 4)), draw(st.integers(0, 6))
    match shape:
        case "length":
            return {"type": "string", "minLength": low, "maxLength": low + more}
        case "pattern":
            return {"type": "string", "pattern": draw(st.sampled_from(PATTERNS))}
        case "both":
            return {"type": "string", "pattern": "^[a-z0-9]*$", "maxLength": low + more}
    return {"type": "string", "format": draw(st.sampled_from(FORMATS))}


@st.composite
def numbers(draw: st.DrawFn) -> Schema:
    schema: Schema = {"type": draw(st.sampled_from(("integer", "number")))}
    low, more = draw(st.integers(-1000, 1000)), draw(st.integers(0, 2000))
    if draw(st.booleans()):
        schema["minimum"] = low
    if draw(st.booleans()):
        schema["maximum"] = low + more
    return schema


def enums() -> st.SearchStrategy[Schema]:
    return st.lists(VALUES, min_size=1, max_size=4).map(
        lambda values: {"enum": values}
    ) | VALUES.map(lambda value: {"const": value})


def leaves() -> st.SearchStrategy[Schema]:
    return (
        strings()
        | numbers()
        | enums()
        | st.sampled_from(({"type": "null"}, {"type": "boolean"}, {"$ref": "#/$defs/leaf"}))
    )


@st.composite
def objects(draw: st.DrawFn, inner: st.SearchStrategy[Schema]) -> Schema:
    properties = draw(st.dictionaries(st.sampled_from(NAMES), inner, max_size=4))
    required = [name for name in properties if draw(st.booleans())]
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


@st.composite
def arrays(draw: st.DrawFn, inner: st.SearchStrategy[Schema]) -> Schema:
    low, more = draw(st.integers(0, 2)), draw(st.integers(0, 2))
    return {"type": "array", "items": draw(inner), "minItems": low, "maxItems": low + more}


def _nested(inner: st.SearchStrategy[Schema]) -> st.SearchStrategy[Schema]:
    several = st.lists(inner, min_size=1, max_size=3).map(lambda each: {"anyOf": each})
    return objects(inner) | arrays(inner) | several


@st.composite
def json_schemas(draw: st.DrawFn) -> Schema:
    """A schema with a definition that it may refer to, and a list that refers to itself."""
    schema = draw(st.recursive(leaves(), _nested, max_leaves=8))
    node = {
        "type": "object",
        "properties": {"item": draw(leaves()), "next": {"anyOf": [{"type": "null"}, NODE]}},
        "required": draw(st.sampled_from((["item"], ["item", "next"]))),
        "additionalProperties": False,
    }
    definitions = {"leaf": draw(strings() | numbers() | enums()), "node": node}
    if draw(st.booleans()):
        schema = {"anyOf": [schema, NODE]}
    return {**schema, "$defs": definitions}
