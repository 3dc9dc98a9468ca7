"""Flags with their environment twins, those that several commands take, and commands that take a
dataclass of flags."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, is_dataclass
from functools import wraps
from inspect import Parameter, Signature, signature
from typing import Annotated, Any, get_type_hints

import typer

START_TIMEOUT_S = 300


def flag(
    name: str,
    description: str,
    panel: str | None = None,
    *,
    alias: str | None = None,
    exists: bool = False,
) -> Any:
    """`--some-name`, whose twin is `TANDEM_SOME_NAME`, and what others call it, its `alias`. With
    `exists` it is a path that has to."""
    twin = f"TANDEM_{name.upper().replace('-', '_')}"
    names = [f"--{each}" for each in (name, alias) if each]
    return typer.Option(*names, envvar=twin, help=description, rich_help_panel=panel, exists=exists)


ApiKeyFlag = Annotated[str | None, flag("api-key", "the key that the gateway asks for")]
StartTimeoutFlag = Annotated[int, flag("start-timeout", "seconds until all must be ready")]


@dataclass(frozen=True)
class GatewayFlags:
    """Which gateway is asked by gRPC, and how."""

    address: Annotated[
        str | None, flag("address", "the gateway's gRPC address (default: 127.0.0.1:50050)")
    ] = None
    api_key: ApiKeyFlag = field(default=None, repr=False)
    tls: Annotated[
        str | None,
        flag("tls", "speak TLS, trusting the authorities of the `system` or of a PEM file"),
    ] = None


def takes_flags(command: Callable[..., None]) -> Callable[..., None]:
    """A command for typer: where it takes a dataclass, it has a flag for each of its fields, which
    have defaults."""
    own = signature(command, eval_str=True).parameters.values()
    kinds: dict[str, Any] = {
        each.name: each.annotation for each in own if is_dataclass(each.annotation)
    }

    @wraps(command)
    def run(**values: Any) -> None:
        for name, kind in kinds.items():
            values[name] = kind(**{each.name: values.pop(each.name) for each in fields(kind)})
        command(**values)

    parameters: list[Parameter] = []
    for each in own:
        kind = kinds.get(each.name)
        parameters += _flags(kind) if kind else [each.replace(kind=Parameter.KEYWORD_ONLY)]
    run.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    return run


def _flags(kind: Any) -> list[Parameter]:
    types = get_type_hints(kind, include_extras=True)
    return [
        Parameter(
            each.name, Parameter.KEYWORD_ONLY, default=each.default, annotation=types[each.name]
        )
        for each in fields(kind)
    ]
