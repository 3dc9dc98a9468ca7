"""The schemas of tools' arguments, as calls are kept to them."""

from __future__ import annotations

import json
from typing import Any

from gateway.tools.tool import Tool
from tandem.core.errors import InvalidRequest

Json = dict[str, Any]

# They say nothing of what matches. The prompt tells the model of them.
ANNOTATIONS = {"title", "description", "default", "examples", "$comment"}
# Keywords whose values hold schemas: one or a list of them, or some by names of the client's. What
# other keywords hold, as `enum` does, is none.
OF_SCHEMAS = {
    "additionalItems",
    "additionalProperties",
    "allOf",
    "anyOf",
    "contains",
    "else",
    "if",
    "items",
    "not",
    "oneOf",
    "prefixItems",
    "propertyNames",
    "then",
    "unevaluatedItems",
    "unevaluatedProperties",
}
OF_NAMED_SCHEMAS = {
    "$defs",
    "definitions",
    "dependencies",
    "dependentSchemas",
    "patternProperties",
    "properties",
}


def arguments_schema(tool: Tool) -> Json:
    """The tool's parameters, which may allow other values as well, as a schema of objects alone:
    only with an object is a text a call. Whatever else they say holds besides the type. Raises
    `InvalidRequest` if they allow no object."""
    schema: Json = json.loads(tool.parameters)
    types = schema.get("type", "object")
    if "object" not in (types if isinstance(types, list) else [types]):
        raise InvalidRequest(
            f"tools: the parameters of {tool.name} must be a schema of an object", param="tools"
        )
    return {**bare(schema), "type": "object"}


def bare(schema: Any) -> Any:
    """What matches is the same without annotations. A list of schemas is taken as well, and what is
    no schema is left as it is."""
    if isinstance(schema, list):
        return [bare(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    return {key: _bare_value(key, value) for key, value in schema.items() if key not in ANNOTATIONS}


def _bare_value(keyword: str, value: Any) -> Any:
    if keyword in OF_SCHEMAS:
        return bare(value)
    if keyword in OF_NAMED_SCHEMAS and isinstance(value, dict):
        return {name: bare(each) for name, each in value.items()}
    return value
