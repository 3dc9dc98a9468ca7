from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, MutableMapping
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
from fastapi import FastAPI
from http_client import with_body
from scripted_service import ScriptedGrammars, ScriptedService, Step, ended

import tandem.artifacts
from gateway.access import Access
from gateway.frontend import Frontend
from gateway.http.app import create_app
from gateway.refusals import Refusals
from tandem.artifacts.tokenizer import Tokenizer
from tandem.process.metrics import MetricsPage

Say = Callable[[str], list[Step]]


@pytest.fixture(autouse=True)
def logs() -> Iterator[list[MutableMapping[str, Any]]]:
    """What is logged. Not written out: structlog's default tracebacks take long."""
    with structlog.testing.capture_logs() as entries:
        yield entries


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return Tokenizer.open(Path(tandem.artifacts.__file__).parent / "mock")


@pytest.fixture
def say(tokenizer: Tokenizer) -> Say:
    """The steps of a script that generates a text."""
    return lambda text: [*tokenizer.encode(text), ended()]


@pytest.fixture
def service(say: Say) -> ScriptedService:
    return ScriptedService(lambda request: say("Hello, world"))


@pytest.fixture
def grammars() -> ScriptedGrammars:
    return ScriptedGrammars()


@pytest.fixture
def access() -> Access:
    """Who may come in; a module of tests may have its own."""
    return Access()


@pytest.fixture
def frontend(
    service: ScriptedService, tokenizer: Tokenizer, grammars: ScriptedGrammars, access: Access
) -> Iterator[Frontend]:
    frontend = Frontend(service, tokenizer, grammars, access=access)
    yield frontend
    frontend.close()


@pytest.fixture
def app(frontend: Frontend, service: ScriptedService) -> FastAPI:
    """The HTTP side."""
    return create_app(frontend, service, MetricsPage(), Refusals())


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the HTTP side, without a socket."""
    transport = httpx.ASGITransport(with_body(app))
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        yield client
