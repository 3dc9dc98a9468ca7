from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from scripted_service import ScriptedService, Step, ended

import tandem.artifacts
from gateway.frontend import Frontend
from tandem.artifacts.tokenizer import Tokenizer

Say = Callable[[str], list[Step]]


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
def frontend(service: ScriptedService, tokenizer: Tokenizer) -> Iterator[Frontend]:
    frontend = Frontend(service, tokenizer)
    yield frontend
    frontend.close()
