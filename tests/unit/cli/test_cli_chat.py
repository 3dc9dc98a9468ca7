"""What `tandem chat` prints of what it was told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from typing import Any, cast

import pytest
from rich.console import Console

from tandem.cli.chat import Conversation
from tandem.client import Client, CompletedChoice, Completion, GenerateArguments, ServedBy
from tandem.core.errors import InvalidRequest

NAME = "[/INST]"


class Answers:
    """A client, and the stream of an answer that is empty."""

    completion = Completion(
        request_id="r",
        model=NAME,
        num_prompt_tokens=1,
        num_tokens=0,
        choices=(CompletedChoice("", (), "stop", ServedBy(NAME, NAME, 0, 0)),),
    )

    def __init__(self, error: InvalidRequest | None = None) -> None:
        self._error = error

    @contextmanager
    def stream(self, **arguments: Any) -> Iterator[Answers]:
        if self._error:
            raise self._error
        yield self

    def __iter__(self) -> Iterator[Any]:
        return iter(())


def talk(client: Answers, monkeypatch: pytest.MonkeyPatch) -> str:
    """What is printed when a user says one thing and leaves."""
    inputs = iter(["Hi", "/exit"])
    console = Console(file=StringIO(), width=200)
    monkeypatch.setattr(console, "input", lambda prompt: next(inputs))
    Conversation(cast(Client, client), GenerateArguments(), console).run(NAME)
    return cast(StringIO, console.file).getvalue()


def test_names_and_errors_are_no_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    said = talk(Answers(InvalidRequest(f"{NAME} is wrong")), monkeypatch)
    assert said.startswith(f"{NAME} - Ctrl-C stops")
    assert f"error: {NAME} is wrong" in said
    assert f"{NAME} -> {NAME}" in talk(Answers(), monkeypatch)
