"""What a `--help` says of a default, it says once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from typer.main import get_command

from tandem.cli.app import commands
from tandem.worker.settings import WorkerSettings


def options(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Those of a command and of all below it, by how they are written."""
    for each in command.params:
        if each.param_type_name == "option":
            yield f"{path} {each.opts[0]}", each
    for name, child in getattr(command, "commands", {}).items():
        yield from options(child, f"{path} {name}")


def test_a_default_that_is_told_in_words_is_not_shown_as_a_value() -> None:
    in_words = {
        name: each
        for name, each in options(get_command(commands), "tandem")
        if "default:" in (each.help or "")
    }
    assert "tandem bench serve --seconds" in in_words
    # None and empty are not shown, but 0 is.
    shown = [
        name
        for name, each in in_words.items()
        if each.show_default and each.default is not None and each.default != ""
    ]
    assert shown == []


def test_a_default_that_a_worker_chooses_is_not_told_as_a_second_one() -> None:
    # Behind each description its value is printed, as `(default: null)`.
    fields = WorkerSettings.model_fields
    assert [name for name in fields if "default:" in (fields[name].description or "")] == []
