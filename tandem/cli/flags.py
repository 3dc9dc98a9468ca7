"""Flags with their environment twins, and those that several commands take."""

from __future__ import annotations

from typing import Annotated, Any

import typer

# Not in brackets, which rich takes for markup.
HUB_MODEL = "a hub's org/name, org/name@revision, org/name:Q4_K_M"


def flag(name: str, description: str, panel: str | None = None, *, exists: bool = False) -> Any:
    """`--some-name`, whose twin is `TANDEM_SOME_NAME`. With `exists` it is a path that has to."""
    twin = f"TANDEM_{name.upper().replace('-', '_')}"
    return typer.Option(
        f"--{name}", envvar=twin, help=description, rich_help_panel=panel, exists=exists
    )


AddressFlag = Annotated[
    str | None, flag("address", "the gateway's gRPC address (default: 127.0.0.1:50050)")
]
ApiKeyFlag = Annotated[str | None, flag("api-key", "the key that the gateway asks for")]
