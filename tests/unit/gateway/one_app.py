"""One app for many tests, which take less time than it takes to make one."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from fastapi import FastAPI
from scripted_service import ScriptedGrammars, ScriptedService, ended

import tandem.artifacts
from gateway.frontend import Frontend
from gateway.http.app import create_app
from gateway.refusals import Refusals
from tandem.artifacts.tokenizer import Tokenizer
from tandem.process.metrics import MetricsPage


@cache
def one_app() -> tuple[FastAPI, ScriptedService]:
    """With what it asks, which keeps the requests of all tests."""
    tokenizer = Tokenizer.open(Path(tandem.artifacts.__file__).parent / "mock")
    service = ScriptedService(lambda request: [*tokenizer.encode("Hello"), ended()])
    frontend = Frontend(service, tokenizer, ScriptedGrammars())
    return create_app(frontend, service, MetricsPage(), Refusals()), service
