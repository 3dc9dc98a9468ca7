"""What the OpenAPI document says of the HTTP side, against the HTTP side (schemathesis).

The document allows more than is served: which fields go together, and what a model has room for, it
cannot say. So what is checked is that whatever it allows or forbids is answered or refused in the
one form, and that nothing of it is a failure.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import schemathesis
from http_client import with_body
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from one_app import one_app
from schemathesis import GenerationMode

OPERATIONS = (
    "POST /v1/chat/completions",
    "POST /v1/completions",
    "POST /tokenize",
    "POST /detokenize",
    "GET /v1/models",
    "GET /v1/models/{model_id}",
    "GET /health",
    "GET /live",
    "GET /ready",
    "GET /version",
    "GET /metrics",
)
# 503 and 504 answer a `timeout` that is too short.
ANSWERS = frozenset({200, 400, 404, 405, 413, 415, 503, 504})
FEW, MANY = 15, 300


@cache
def strategies() -> dict[str, st.SearchStrategy[schemathesis.Case]]:
    """By operation: requests that the document allows, and such as it does not."""
    schema = schemathesis.openapi.from_asgi("/openapi.json", with_body(one_app()[0]))
    operations = {each.ok().label: each.ok() for each in schema.get_all_operations()}
    return {
        label: st.one_of(operation.as_strategy(generation_mode=mode) for mode in GenerationMode)
        for label, operation in operations.items()
    }


def check(case: schemathesis.Case, logs: list[Any]) -> None:
    response = case.call()
    assert response.status_code in ANSWERS, response.text
    if response.status_code >= 400:
        error = response.json()["error"]
        assert error.keys() == {"message", "type", "param", "code"}
        assert error["message"]
    assert not [entry for entry in logs if entry["log_level"] == "error"]


def fuzzed(max_examples: int) -> settings:
    return settings(
        max_examples=max_examples,
        derandomize=max_examples == FEW,
        suppress_health_check=list(HealthCheck),
    )


def test_all_that_the_document_tells_of_is_tried() -> None:
    assert strategies().keys() == set(OPERATIONS)


@pytest.mark.parametrize("operation", OPERATIONS)
@fuzzed(FEW)
@given(st.data())
def test_whatever_it_allows_or_forbids_is_answered_or_refused(logs, operation, data) -> None:
    check(data.draw(strategies()[operation]), logs)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("operation", OPERATIONS)
@fuzzed(MANY)
@given(st.data())
def test_it_is_so_for_much_more(logs, operation, data) -> None:
    check(data.draw(strategies()[operation]), logs)
