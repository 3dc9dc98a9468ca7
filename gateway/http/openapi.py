"""What `/openapi.json` says beside what FastAPI finds in the routes: keys, headers, and streams."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from gateway.http.access import OPEN_PATHS
from gateway.http.documented_errors import ErrorBody
from gateway.http.schemas.answers import ChatCompletionChunk, CompletionChunk

Json = dict[str, Any]

REF = "#/components/{}/{}"
# What each event of a stream has for its data.
CHUNKS: Mapping[str, type[BaseModel]] = {
    "/v1/chat/completions": ChatCompletionChunk,
    "/v1/completions": CompletionChunk,
}
KEY = "ApiKey"
SECURITY_SCHEMES: Json = {
    KEY: {
        "type": "http",
        "scheme": "bearer",
        "description": "Where the gateway has keys; a key is its tenant.",
    }
}
REQUEST_ID = "X-Request-Id"
TENANT = "X-Tandem-Tenant"
TRACE = ("traceparent", "tracestate")
HEADERS: Mapping[str, str] = {
    REQUEST_ID: "The exchange's name, in answers, logs and traces; a new one if there is none.",
    TENANT: "Where there are tenants and no keys: whose request it is; `default` if it is not one.",
    "traceparent": "W3C's: the request becomes part of that trace, if traces are exported.",
    "tracestate": "W3C's, with it.",
}


def describe_api(app: FastAPI) -> None:
    """To be called once all routes are there that are to be described."""
    generate = app.openapi

    def openapi() -> Json:
        if app.openapi_schema is None:
            app.openapi_schema = _completed(generate())
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _completed(document: Json) -> Json:
    components = document["components"]
    components["securitySchemes"] = SECURITY_SCHEMES
    components["parameters"] = {
        name: {"name": name, "in": "header", "description": text, "schema": {"type": "string"}}
        for name, text in HEADERS.items()
    }
    components["headers"] = {
        REQUEST_ID: {"description": HEADERS[REQUEST_ID], "schema": {"type": "string"}}
    }
    unrouted: tuple[type[BaseModel], ...] = (*CHUNKS.values(), ErrorBody)
    _, schemas = models_json_schema(
        [(each, "serialization") for each in unrouted],
        ref_template=REF.format("schemas", "{model}"),
    )
    components["schemas"] |= schemas["$defs"]
    # Who has no key may ask, where there are none.
    document["security"] = [{KEY: []}, {}]
    for path, operation in _operations(document):
        operation.setdefault("parameters", []).extend(
            {"$ref": REF.format("parameters", name)} for name in _headers_of(path)
        )
        if path in OPEN_PATHS:
            operation["security"] = []
        for response in operation["responses"].values():
            named = {REQUEST_ID: {"$ref": REF.format("headers", REQUEST_ID)}}
            response["headers"] = response.get("headers", {}) | named
        if path in CHUNKS:
            operation["responses"]["200"]["content"]["text/event-stream"] = _events(CHUNKS[path])
    return document


def _operations(document: Json) -> Iterator[tuple[str, Json]]:
    for path, operations in document["paths"].items():
        for operation in operations.values():
            yield path, operation


def _headers_of(path: str) -> tuple[str, ...]:
    if path in OPEN_PATHS:
        return (REQUEST_ID,)
    return (REQUEST_ID, TENANT, *(TRACE if path in CHUNKS else ()))


def _events(chunk: type[BaseModel]) -> Json:
    """Of each event the data; an error may end a stream that has begun."""
    kinds = [{"$ref": REF.format("schemas", each.__name__)} for each in (chunk, ErrorBody)]
    text = "With `stream`: of each event the data, but of the last, which is `[DONE]`."
    return {"schema": {"anyOf": kinds, "description": text}}
