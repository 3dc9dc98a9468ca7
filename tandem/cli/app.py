"""The commands.

What a command needs is imported when it runs, so that `tandem --help` comes at once.
"""

from __future__ import annotations

import inspect
import os
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from tandem.artifacts.hub_reference import HUB_MODEL
from tandem.cli.bench import bench
from tandem.cli.credentials import certs, keys
from tandem.cli.flags import ApiKeyFlag, GatewayFlags, flag, takes_flags
from tandem.cli.fleet_commands import doctor, up
from tandem.cli.standard_streams import standard_streams
from tandem.core.errors import TandemError
from tandem.core.installation import own_version

commands = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

WorkerName = Annotated[str, typer.Argument(help="the worker's name, as `tandem workers` has it")]

# The arguments, --help among them, are the service's own business.
FORWARD = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def app() -> None:
    """The `tandem` command; a `TandemError` becomes one line and exit status 1."""
    # gRPC would write lines of its own beside ours, and can be told only before it is imported.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        with standard_streams():
            commands(prog_name="tandem")
    except TandemError as error:
        sys.exit(f"error: {error.message}")
    except KeyboardInterrupt:
        # Before a command began; of what comes later typer makes the same.
        sys.exit(128 + signal.SIGINT)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tandem {own_version()}")
        raise typer.Exit


@commands.callback()
def main(
    version: Annotated[
        bool,
        typer.Option("--version", help="say which it is", callback=_print_version, is_eager=True),
    ] = False,
) -> None:
    """LLM serving that splits prefill from decode."""


commands.command()(up)
commands.command()(doctor)


@commands.command()
@takes_flags
def chat(
    prompt: Annotated[str | None, typer.Argument(help="ask this and leave")] = None,
    *,
    gateway: GatewayFlags,
    system: Annotated[str | None, flag("system", "the system message")] = None,
    max_tokens: Annotated[int | None, flag("max-tokens", "tokens of an answer at the most")] = None,
    temperature: Annotated[
        float, flag("temperature", "0 is greedy; a small model needs a low one")
    ] = 0.2,
) -> None:
    """Chat with the model. Ctrl-C stops an answer; /new begins anew; Ctrl-D or /exit leaves.

    Exit status 1 if an answer failed, or was stopped, and the questions come from a pipe or a file.
    """
    from tandem.cli.chat import run_chat

    run_chat(prompt, gateway, system=system, max_tokens=max_tokens, temperature=temperature)


@commands.command()
@takes_flags
def timeline(
    gateway: GatewayFlags,
    *,
    window: Annotated[str, flag("window", "how far back: 500ms, 30s, 5m")] = "30s",
    save: Annotated[
        Path | None,
        flag("save", "also write a file: .json (trace events, for ui.perfetto.dev) or .svg"),
    ] = None,
) -> None:
    """Show what each worker did of late, and how busy it was."""
    from tandem.cli.timeline import show_timeline

    show_timeline(gateway, window, save)


@commands.command()
def top(
    url: Annotated[
        str | None,
        flag("url", "the gateway's, with or without /v1 (default: http://127.0.0.1:8000)"),
    ] = None,
    api_key: ApiKeyFlag = None,
    once: Annotated[bool, typer.Option("--once", help="print one picture and leave")] = False,
) -> None:
    """Watch the engines work: the page's picture, live, in the terminal. q leaves."""
    from tandem.cli.top.top import show_top

    show_top(url, api_key, once=once)


@commands.command()
@takes_flags
def workers(gateway: GatewayFlags) -> None:
    """List the workers: role, state, what they hold, which build they are."""
    from tandem.cli.workers import show_workers

    show_workers(gateway)


@commands.command()
@takes_flags
def drain(
    worker: WorkerName,
    *,
    gateway: GatewayFlags,
    timeout: Annotated[
        float,
        typer.Option(min=0, max=86_400, help="seconds that it may take for what it has"),
    ] = 30.0,
    wait: Annotated[bool, typer.Option(help="return when it holds nothing any more")] = True,
) -> None:
    """Take a worker out of service: others go on with what it does not finish in time.

    Until `tandem undrain`, or until the worker is started anew.
    """
    from tandem.cli.workers import drain_worker

    drain_worker(gateway, worker, timeout, wait=wait)


@commands.command()
@takes_flags
def restart(
    worker: WorkerName,
    *,
    gateway: GatewayFlags,
    by: Annotated[
        str | None,
        typer.Option(
            help="the command that restarts it, where it runs: 'ssh HOST systemctl restart UNIT' "
            "(default: SIGTERM to its process here, which something starts again)"
        ),
    ] = None,
    timeout: Annotated[
        float, typer.Option(min=1, help="seconds until its successor must serve")
    ] = 300.0,
) -> None:
    """Restart a worker, and return when its successor serves; exit status 1 if none comes.

    What it holds is finished or goes on elsewhere.
    """
    from tandem.cli.restart import restart_worker

    restart_worker(gateway, worker, by, timeout)


@commands.command()
@takes_flags
def undrain(
    worker: WorkerName,
    *,
    gateway: GatewayFlags,
) -> None:
    """Put a worker back into service."""
    from tandem.cli.workers import undrain_worker

    undrain_worker(gateway, worker)


@commands.command()
def pull(
    model: Annotated[
        str,
        typer.Argument(help=f"default, a folder, a .gguf file or {HUB_MODEL}"),
    ] = "default",
) -> None:
    """Download or import a model into the cache, and print its folder.

    An interrupted download goes on where it stopped. What another version of the
    importer made of a GGUF file is made anew, if that version was noted with it.
    """
    from tandem.artifacts.progress import terminal_progress
    from tandem.artifacts.resolve import pull_model

    with terminal_progress(model) as progress:
        folder = pull_model(model, progress)
    typer.echo(folder.path)


commands.command()(keys)
commands.command()(certs)
commands.add_typer(bench, name="bench")

models = typer.Typer(add_completion=False, invoke_without_command=True)
commands.add_typer(models, name="models")


@models.callback()
def list_models(
    context: typer.Context,
    json: Annotated[bool, typer.Option("--json", help="for programs: a JSON list")] = False,
) -> None:
    """List the models in the cache; `tandem models rm NAME` removes one."""
    if context.invoked_subcommand is None:
        from tandem.cli.models import show_models

        show_models(as_json=json)


@models.command("rm")
def remove_model(
    name: Annotated[str, typer.Argument(help="the model's name, default or its folder")],
) -> None:
    """Remove a model from the cache."""
    from tandem.cli.models import remove

    remove(name)


@commands.command(context_settings=FORWARD, add_help_option=False)
def prefill(context: typer.Context) -> None:
    """Run one prefill worker, in this process."""
    _become("prefill_service", context.args)


@commands.command(context_settings=FORWARD, add_help_option=False)
def decode(context: typer.Context) -> None:
    """Run one decode worker, in this process."""
    _become("decode_service", context.args)


@commands.command(context_settings=FORWARD, add_help_option=False)
def gateway(context: typer.Context) -> None:
    """Run the gateway, in this process."""
    _become("gateway", context.args)


def _let_help_flow(group: typer.Typer) -> None:
    """Typer breaks each paragraph of a help but the first where the docstring's lines end."""
    for each in group.registered_commands:
        paragraphs = inspect.cleandoc(each.callback.__doc__ or "").split("\n\n")
        each.help = "\n\n".join(paragraph.replace("\n", " ") for paragraph in paragraphs)


_let_help_flow(commands)
_let_help_flow(bench)


def _become(module: str, arguments: list[str]) -> None:
    os.execv(sys.executable, [sys.executable, "-P", "-m", module, *arguments])
