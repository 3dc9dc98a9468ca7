"""`tandem models`: what the cache holds."""

from __future__ import annotations

import json
from dataclasses import asdict

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tandem.artifacts.cache import models_dir
from tandem.artifacts.catalog import BrokenModel, CachedModel, list_models
from tandem.artifacts.pull import DEFAULT_NAME
from tandem.cli.amounts import format_bytes

COLUMNS = ("name", "architecture", "parameters", "layers", "length", "on disk", "source")
EMPTY = "no models yet: `tandem pull` fetches the default one, `tandem pull --help` says more"


def show_models(as_json: bool) -> None:
    """Print a table, or a JSON list with all fields."""
    models = list_models()
    if as_json:
        print(json.dumps([_plain(model) for model in models], indent=2))
        return
    console = Console(highlight=False)
    if whole := [model for model in models if isinstance(model, CachedModel)]:
        console.print(_table(whole))
    for model in models:
        if isinstance(model, BrokenModel):
            text = f"{model.name} ({format_bytes(model.size)}): {model.problem}"
            console.print(f"[yellow]{escape(text)}[/]", soft_wrap=True)
    last = f"default is {DEFAULT_NAME}; all are in {models_dir()}" if models else EMPTY
    console.print(f"[dim]{escape(last)}[/]", soft_wrap=True)


def _plain(model: CachedModel | BrokenModel) -> dict[str, object]:
    return asdict(model) | {"path": str(model.path)}


def _table(models: list[CachedModel]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in COLUMNS:
        is_number = column in ("parameters", "layers", "length", "on disk")
        table.add_column(column, justify="right" if is_number else "left", overflow="fold")
    for model in models:
        table.add_row(*map(escape, _row(model)))
    return table


def _row(model: CachedModel) -> tuple[str, ...]:
    return (
        model.name,
        model.architecture.removesuffix("ForCausalLM"),
        _count(model.num_parameters),
        str(model.num_layers),
        str(model.max_model_len),
        format_bytes(model.size),
        f"{model.source or ''} {(model.revision or '')[:8]}".strip(),
    )


def _count(number: int) -> str:
    return f"{number / 1e9:.1f} B" if number >= 1e9 else f"{number / 1e6:.0f} M"
