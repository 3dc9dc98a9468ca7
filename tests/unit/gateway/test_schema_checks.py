"""What is said of a schema before anybody compiles it."""

from __future__ import annotations

import json

import pytest
from http_client import counted_calls
from hypothesis import given
from hypothesis import strategies as st

from gateway.grammars import check_schema, schema_text
from gateway.http.schemas.tools import ToolBody, read_tools
from gateway.tools.limits import check_tools
from tandem.artifacts.grammar_text import MAX_NESTING
from tandem.core.errors import InvalidRequest

JSON = st.recursive(
    st.none() | st.booleans() | st.text('[]{}"\\aé', max_size=4),
    lambda inner: st.lists(inner) | st.dictionaries(st.text('[]{}"\\aé', max_size=2), inner),
)


def levels(value: object) -> int:
    """How many brackets are within each other."""
    if not isinstance(value, dict | list):
        return 0
    children = value.values() if isinstance(value, dict) else value
    return 1 + max(map(levels, children), default=0)


@given(value=JSON, levels_around=st.integers(50, MAX_NESTING), indent=st.none() | st.just(1))
def test_a_schema_is_too_deep_from_the_first_level_too_many(
    value: object, levels_around: int, indent: int | None
) -> None:
    """Whatever brackets its texts have."""
    schema: dict[str, object] = {"[" * MAX_NESTING: value, "}": []}
    for _ in range(levels_around):
        schema = {"items": schema}
    text = json.dumps(schema, ensure_ascii=False, indent=indent)
    assert json.loads(schema_text(schema, "tools")) == schema
    if levels(schema) <= MAX_NESTING:
        check_schema(text, "tools")
    else:
        with pytest.raises(InvalidRequest, match="tools: the schema must be nested at most 64"):
            check_schema(text, "tools")


def test_what_is_checked_of_many_tools_is_a_few_calls_for_each() -> None:
    """And not some for each thing that their schemas say."""
    num_tools = 128
    field = {"type": "string", "enum": ["a", "b", "c", "d"], "description": "What it is for."}
    parameters = {"type": "object", "properties": {f"field_{each}": field for each in range(15)}}
    bodies = [
        ToolBody.model_validate(
            {"type": "function", "function": {"name": f"f{each}", "parameters": parameters}}
        )
        for each in range(num_tools)
    ]
    with counted_calls() as num_calls:
        use = read_tools(bodies, "auto", parallel=True)
        assert use is not None
        check_tools(use)
        assert num_calls() < 40 * num_tools
