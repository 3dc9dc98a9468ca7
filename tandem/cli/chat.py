"""`tandem chat`: a conversation over the gRPC SDK."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from time import monotonic

from rich.console import Console
from rich.markup import escape

from tandem.cli.amounts import format_bytes, format_seconds
from tandem.cli.flags import GatewayFlags
from tandem.cli.reaching import reaching_gateway, trusted
from tandem.client import Client, Completion, CompletionStream, GenerateArguments, Message
from tandem.core.errors import ContextLengthExceeded, TandemError, Unavailable
from tandem.core.numbers import require_positive

CONNECT_S = 3.0
LEAVE = {"/exit", "/quit"}
ANEW = "/new"
# C0, DEL and C1, by which a model could write anything anywhere on the screen, shown as they are
# written in Python.
SHOWN = {code: f"\\x{code:02x}" for code in {*range(0x20), *range(0x7F, 0xA0)} - {*b"\n\t"}}


def run_chat(
    prompt: str | None,
    gateway: GatewayFlags,
    *,
    system: str | None,
    max_tokens: int | None,
    temperature: float,
) -> None:
    """Answer `prompt`, or talk until the user leaves. Raises `TandemError`, and `SystemExit` if the
    answer to `prompt` was stopped, or one that no user watched did not come whole."""
    options = GenerateArguments(temperature=temperature)
    if max_tokens is not None:
        require_positive("max-tokens", max_tokens)
        options["max_tokens"] = max_tokens
    tls = trusted(gateway.tls)
    with Client(gateway.address, api_key=gateway.api_key, tls=tls) as client:
        model = _served_model(client)
        console, notes = Console(highlight=False), Console(stderr=True, highlight=False)
        conversation = Conversation(client, options, console, notes)
        if system is not None:
            conversation.messages.append(Message(role="system", content=system))
        if prompt is not None:
            if not conversation.answer(prompt):
                sys.exit(128 + signal.SIGINT)
        elif not conversation.run(model) and not sys.stdin.isatty():
            sys.exit(1)


def _served_model(client: Client) -> str:
    """Raises `Unavailable` that says what to do if nobody serves."""
    with reaching_gateway():
        models = client.models(timeout=CONNECT_S)
    if not models:
        raise Unavailable(
            "the gateway is there, but no workers that serve: see `tandem workers`, and its log"
        )
    return models[0].id


@dataclass
class Conversation:
    """What was said so far. What is asked is kept with its answer, as far as that came. `notes` is
    for what is said of an answer, and is no part of it."""

    client: Client
    options: GenerateArguments
    console: Console
    notes: Console
    messages: list[Message] = field(default_factory=list)

    def run(self, model: str) -> bool:
        """Read and answer until the user leaves. Whether all answers came whole."""
        keys = f"Ctrl-C stops an answer, {ANEW} begins anew, Ctrl-D leaves"
        self.console.print(f"[bold]{escape(model)}[/] [dim]- {keys}[/]")
        beginning = [*self.messages]
        are_whole = True
        for text in self._inputs():
            if text == ANEW:
                self.messages = [*beginning]
                self.notes.print("[dim]a new conversation[/]")
                continue
            try:
                are_whole &= self.answer(text)
            except TandemError as error:
                are_whole = False
                self.messages.pop()
                self.console.print(f"[red]error: {escape(error.message)}[/]")
                if isinstance(error, ContextLengthExceeded) and self.messages != beginning:
                    self.notes.print(f"[dim]{ANEW} begins a conversation anew[/]")
        return are_whole

    def answer(self, text: str) -> bool:
        """Stream the answer to `text`; False if the user stopped it. Raises `TandemError`."""
        self.messages.append(Message(role="user", content=text))
        arguments: GenerateArguments = {**self.options, "messages": self.messages}
        printed = PrintedAnswer(self.console)
        try:
            # Opening it may take its time as well: it waits for the gateway to take the request.
            with self.client.stream(**arguments) as stream:
                printed.print(stream)
                end = printed.describe(stream.completion)
            is_whole = True
        except KeyboardInterrupt:
            end, is_whole = "stopped", False
        except TandemError:
            if printed.text:
                printed.end_line()
            raise
        self.messages.append(Message(role="assistant", content=printed.text))
        printed.end_line()
        self.notes.print(f"[dim]{escape(end)}[/]", soft_wrap=not self.notes.is_terminal)
        return is_whole

    def _inputs(self) -> Iterator[str]:
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401 - gives input() its line editing
        while True:
            try:
                text = self.console.input("[bold cyan]> [/]").strip()
            except EOFError:
                self.console.print()
                return
            except KeyboardInterrupt:
                self.console.print()
                continue
            if text in LEAVE:
                return
            if text:
                yield text


class PrintedAnswer:
    """An answer as it comes, and the time that it took. It is written as it is, since a console
    would make spaces of tabs; but a terminal is shown what it would obey."""

    def __init__(self, console: Console) -> None:
        self.text = ""
        self._file = console.file
        self._shown = SHOWN if console.file.isatty() else {}
        self._start_s = monotonic()
        self._first_s: float | None = None

    def print(self, stream: CompletionStream) -> None:
        for delta in stream:
            self._first_s = self._first_s or monotonic()
            self.text += delta.text
            self._write(delta.text.translate(self._shown))

    def end_line(self) -> None:
        self._write("\n")

    def describe(self, completion: Completion) -> str:
        """Figures as the client sees them; the rate is that of the tokens after the first."""
        end_s = monotonic()
        first_s = self._first_s or end_s
        parts = [f"{completion.num_tokens} tokens"]
        if completion.finish_reason == "length":
            parts.append("cut off there")
        if completion.num_tokens > 1 and end_s > first_s:
            parts.append(f"{(completion.num_tokens - 1) / (end_s - first_s):.1f} tokens/s")
        parts.append(f"first after {format_seconds(first_s - self._start_s)}")
        served_by = completion.served_by
        if served_by.mode == "local":
            parts.append(f"{served_by.prefill_worker} alone")
        else:
            workers = [served_by.prefill_worker, served_by.decode_worker]
            parts.append(" -> ".join(filter(None, workers)))
            parts.append(f"{format_bytes(served_by.kv_bytes)} of KV moved")
        if served_by.num_cached_tokens:
            parts.append(f"{served_by.num_cached_tokens} prompt tokens cached")
        if served_by.num_losses:
            parts.append(f"recovered {served_by.num_losses}x")
        if served_by.num_bad_transfers:
            parts.append(f"damaged KV computed again {served_by.num_bad_transfers}x")
        if served_by.num_preemptions:
            parts.append(f"preempted {served_by.num_preemptions}x")
        return ", ".join(parts)

    def _write(self, text: str) -> None:
        self._file.write(text)
        self._file.flush()
