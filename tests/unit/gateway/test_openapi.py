"""What the OpenAPI document says of the HTTP side, against the HTTP side (schemathesis).

The document tells of more than is served: which fields go together, and what a model has room for,
it cannot say. So what is checked is that whatever it allows or forbids gets an answer or a refusal
of the one form, that neither comes from a failure, and that methods and types are as it says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from scripted_service import ScriptedGrammars, ScriptedService, ended
from starlette.types import ASGIApp

from gateway.frontend import Frontend
from gateway.http.app import create_app
from tandem.artifacts.tokenizer import Tokenizer

REFUSALS = frozenset({400, 401, 404, 405, 413, 415})
# 503 and 504 are answers to a `timeout` that is too short.
ANSWERS = REFUSALS | {200, 503, 504}
FEW, MANY = 12, 1000


def fuzzing(max_examples: int) -> Callable[[Any], Any]:
    return settings(
        max_examples=max_examples,
        phases=[Phase.generate, Phase.reuse],
        suppress_health_check=list(HealthCheck),
        derandomize=max_examples == FEW,
    )


@pytest.fixture(scope="module")
def app() -> Iterator[ASGIApp]:
    import tandem.artifacts

    folder = next(iter(tandem.artifacts.__path__))
    from pathlib import Path

    tokenizer = Tokenizer.open(Path(folder) / "mock")
    service = ScriptedService(lambda request: [*tokenizer.encode("Hello"), ended()])
    frontend = Frontend(service, tokenizer, ScriptedGrammars())
    yield create_app(frontend, service)
    frontend.close()


@pytest.fixture(scope="module")
def described(app: ASGIApp) -> Any:
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    schema.config.generation.update(modes=list(schemathesis.GenerationMode))
    return schema


schema = schemathesis.pytest.from_fixture("described")


def check(case: schemathesis.Case) -> None:
    response = case.call()
    case.validate_response(response, checks=[not_a_server_error]) if response.status_code not in (
        503,
        504,
    ) else None
    assert response.status_code in ANSWERS
    if response.status_code >= 400:
        error = response.json()["error"]
        assert error.keys() == {"message", "type", "param", "code"}
        assert error["message"]


@schema.parametrize()
@fuzzing(FEW)
def test_whatever_it_allows_or_forbids_is_answered_or_refused(case: schemathesis.Case) -> None:
    check(case)


@pytest.mark.slow
@schema.parametrize()
@fuzzing(MANY)
def test_it_is_so_for_much_more(case: schemathesis.Case) -> None:
    check(case)
