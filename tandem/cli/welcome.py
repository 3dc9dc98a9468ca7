"""What `tandem up` says when it serves."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from tandem.cli.fleet import Fleet, FleetSettings
from tandem.core.address import Address, is_loopback, local_host
from tandem.wire.metadata import API_KEY_VARIABLE

# Where the other commands look if they are not told.
DEFAULT_HTTP, DEFAULT_GRPC = Address("127.0.0.1", 8000), Address("127.0.0.1", 50050)
MESSAGES = '"messages": [{"role": "user", "content": "Hello!"}]'
PROMPT = '"prompt": "Once upon a time"'


def welcome(
    console: Console,
    settings: FleetSettings,
    fleet: Fleet,
    model_name: str,
    logs: Path | None,
    *,
    can_chat: bool,
) -> None:
    """Print addresses, and what to do next, in lines that can be pasted. `can_chat`: whether the
    model has a chat template."""
    host = local_host(settings.host)
    http, grpc = Address(host, settings.http_port), Address(host, settings.grpc_port)
    url = f"http://{http}"
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")
    for name, value in (
        ("model", f"{model_name} ({settings.topology}, {settings.device})"),
        ("page", url),
        ("OpenAI API", f"{url}/v1"),
        ("gRPC API", str(grpc)),
        ("workers", ", ".join(f"{each.name} :{each.port}" for each in fleet.workers)),
        ("logs", str(logs) if logs else "here"),
    ):
        facts.add_row(name, Text(value))
    console.print(
        Panel(facts, title="[bold green]Tandem is ready[/]", title_align="left", expand=False)
    )
    if not settings.needs_key and not is_loopback(settings.host):
        said = "no API keys: whoever reaches this machine is served (see --api-keys)"
        console.print(f"[bold yellow]{said}[/]", soft_wrap=True)
    headers = "-H 'Content-Type: application/json'"
    if settings.needs_key:
        headers += f' \\\n  -H "Authorization: Bearer ${API_KEY_VARIABLE}"'
    path, asked = ("chat/completions", MESSAGES) if can_chat else ("completions", PROMPT)
    body = f'{{"model": "default", {asked}, "max_tokens": 64}}'
    # Outside the panel, whose border would be copied along.
    console.print(f"curl {url}/v1/{path} {headers} \\\n  -d '{body}'", markup=False, soft_wrap=True)
    chat = "chat" if grpc == DEFAULT_GRPC else f"chat --address {grpc}"
    top = "top" if http == DEFAULT_HTTP else f"top --url {url}"
    for command in (chat, top) if can_chat else (top,):
        console.print(f"{_own_name()} {command}", markup=False, soft_wrap=True)
    console.print("[dim]Ctrl-C to stop[/]")


def _own_name() -> str:
    """How the user can call this command."""
    if shutil.which("tandem"):
        return "tandem"
    script = Path(sys.executable).parent / "tandem"
    return os.path.relpath(script) if script.exists() else "python -m tandem.cli"
