"""Flags with their environment twins."""

from __future__ import annotations

from typing import Any

import typer


def flag(name: str, description: str, panel: str | None = None) -> Any:
    """`--some-name`, whose twin is `TANDEM_SOME_NAME`."""
    twin = f"TANDEM_{name.upper().replace('-', '_')}"
    return typer.Option(f"--{name}", envvar=twin, help=description, rich_help_panel=panel)
