"""`tandem models`: what the cache holds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from rich.markup import escape

from tandem.artifacts.cache import models_dir
from tandem.artifacts.catalog import (
    BrokenModel,
    CachedModel,
    find_model,
    list_models,
    remove_model,
)
from tandem.artifacts.packed import PackedModel, list_packed
from tandem.artifacts.pull import DEFAULT_NAME
from tandem.artifacts.resolve import DEFAULT
from tandem.cli.amounts import format_bytes
from tandem.cli.tables import print_rows, table_console

NUMBERS = ("parameters", "layers", "length", "on disk", "packed")
LESS_NEEDED = ("layers", "architecture", "packed")
EMPTY = "no models yet: `tandem pull` fetches the default one, `tandem pull --help` says more"


def show_models(as_json: bool) -> None:
    """Print a table, or a JSON list with all fields."""
    models = list_models()
    packed = {each.path: each for each in list_packed()}
    if as_json:
        print(json.dumps([_plain(model, packed) for model in models], indent=2))
        return
    console = table_console()
    if whole := [model for model in models if isinstance(model, CachedModel)]:
        rows = [_row(model, _packed_size(model, packed)) for model in whole]
        print_rows(console, rows, numbers=NUMBERS, less_needed=LESS_NEEDED)
    for model in models:
        if isinstance(model, BrokenModel):
            text = f"{model.name} ({format_bytes(model.size)}): {model.problem}"
            console.print(f"[yellow]{escape(text)}[/]", soft_wrap=True)
    for other in packed.keys() - {model.path.resolve() for model in models}:
        text = f"{other}: {format_bytes(packed[other].size)} of packed weights"
        mend = f"`tandem models rm {other}` removes them"
        console.print(f"[dim]{escape(text)}; {escape(mend)}[/]", soft_wrap=True)
    last = f"default is {DEFAULT_NAME}; all are in {models_dir()}" if models else EMPTY
    console.print(f"[dim]{escape(last)}[/]", soft_wrap=True)


def remove(name: str) -> None:
    """Remove a model, which may be called as `tandem pull` has it. Raises `TandemError`."""
    is_default = name == DEFAULT and find_model(name) is None
    print(f"removed {remove_model(DEFAULT_NAME if is_default else name)}")


def _plain(
    model: CachedModel | BrokenModel, packed: Mapping[Path, PackedModel]
) -> dict[str, object]:
    return asdict(model) | {"path": str(model.path), "packed_size": _packed_size(model, packed)}


def _packed_size(model: CachedModel | BrokenModel, packed: Mapping[Path, PackedModel]) -> int:
    own = packed.get(model.path.resolve())
    return own.size if own else 0


def _row(model: CachedModel, packed_size: int) -> dict[str, str]:
    return {
        "name": model.name,
        "architecture": model.architecture.removesuffix("ForCausalLM"),
        "parameters": _count(model.num_parameters),
        "layers": str(model.num_layers),
        "length": str(model.max_model_len),
        "on disk": format_bytes(model.size),
        "packed": format_bytes(packed_size) if packed_size else "",
        "source": f"{model.source or ''} {(model.revision or '')[:8]}".strip(),
    }


def _count(number: int) -> str:
    return f"{number / 1e9:.1f} B" if number >= 1e9 else f"{number / 1e6:.0f} M"
