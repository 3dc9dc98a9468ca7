"""What `tandem chat` prints of what it was told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from io import StringIO
from typing import Any, cast

import pytest
from rich.console import Console

from tandem.cli import chat
from tandem.cli.chat import Conversation, run_chat
from tandem.cli.flags import GatewayFlags
from tandem.client import (
    Client,
    CompletedChoice,
    Completion,
    Delta,
    GenerateArguments,
    Message,
    Model,
    ServedBy,
)
from tandem.core.errors import (
    ConfigError,
    ContextLengthExceeded,
    InvalidRequest,
    TandemError,
    Unavailable,
)

NAME = "[/INST]"


class Terminal(StringIO):
    """What is written to a terminal."""

    def isatty(self) -> bool:
        return True


class Answers:
    """A client, and the stream of an answer of these pieces."""

    completion = Completion(
        request_id="r",
        model=NAME,
        num_prompt_tokens=1,
        num_tokens=0,
        choices=(CompletedChoice("", (), "stop", ServedBy(NAME, NAME, 0, 0)),),
    )

    def __init__(
        self,
        *pieces: str,
        error: BaseException | None = None,
        ends_with: TandemError | None = None,
    ) -> None:
        self._pieces = pieces
        self._error = error
        self._ends_with = ends_with

    @contextmanager
    def stream(self, **arguments: Any) -> Iterator[Answers]:
        if self._error:
            raise self._error
        yield self

    def __iter__(self) -> Iterator[Any]:
        yield from (Delta(text, ()) for text in self._pieces)
        if self._ends_with:
            raise self._ends_with


class Gateway(Answers):
    """A client of its own."""

    def __enter__(self) -> Gateway:
        return self

    def __exit__(self, *_: object) -> None: ...

    def models(self, timeout: float) -> list[Model]:
        return [Model(NAME, 1)]


def talk(
    client: Answers, monkeypatch: pytest.MonkeyPatch, file: StringIO | None = None
) -> tuple[str, str]:
    """What is printed to stdout and to stderr when a user says one thing and leaves."""
    inputs = iter(["Hi", "/exit"])
    console = Console(file=file or StringIO(), width=200, color_system=None)
    notes = Console(file=StringIO(), width=200)
    monkeypatch.setattr(console, "input", lambda prompt: next(inputs))
    Conversation(cast(Client, client), GenerateArguments(), console, notes).run(NAME)
    return cast(StringIO, console.file).getvalue(), cast(StringIO, notes.file).getvalue()


def test_names_and_errors_are_no_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    said, _ = talk(Answers(error=InvalidRequest(f"{NAME} is wrong")), monkeypatch)
    assert said.startswith(f"{NAME} - Ctrl-C stops")
    assert f"error: {NAME} is wrong" in said
    assert f"{NAME} -> {NAME}" in talk(Answers(), monkeypatch)[1]


def test_who_served_it_alone_moved_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = Answers()
    served_by = ServedBy("decode-0", "decode-0", 0, 0, mode="local")
    choice = replace(Answers.completion.choices[0], served_by=served_by)
    alone.completion = replace(Answers.completion, choices=(choice,))
    noted = talk(alone, monkeypatch)[1]
    assert "decode-0 alone" in noted
    assert "->" not in noted and "moved" not in noted


def test_an_answer_that_has_no_end_is_said_to_be_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    cut = Answers("Once upon")
    choice = replace(Answers.completion.choices[0], finish_reason="length")
    cut.completion = replace(Answers.completion, num_tokens=2, choices=(choice,))
    assert "2 tokens, cut off there, " in talk(cut, monkeypatch)[1]
    assert "cut off" not in talk(Answers("The end"), monkeypatch)[1]


@pytest.mark.parametrize(("pieces", "answer"), [(["Once ", "upon"], "Once upon\n"), ([], "")])
def test_an_error_has_a_line_of_its_own(
    monkeypatch: pytest.MonkeyPatch, pieces: list[str], answer: str
) -> None:
    said, noted = talk(Answers(*pieces, ends_with=Unavailable("it is gone")), monkeypatch)
    _, _, rest = said.partition("\n")
    assert rest == f"{answer}error: it is gone\n"
    assert noted == ""


def test_an_answer_is_stopped_while_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    _, noted = talk(Answers(error=KeyboardInterrupt()), monkeypatch)
    assert noted == "stopped\n"


def test_one_answer_that_is_stopped_is_no_success(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a script would go on with half of it."""

    monkeypatch.setattr(chat, "Client", lambda *_, **__: Gateway(error=KeyboardInterrupt()))
    with pytest.raises(SystemExit) as end:
        run_chat("Hi", GatewayFlags(), system=None, max_tokens=None, temperature=0.0)
    assert end.value.code == 130


@pytest.mark.parametrize(
    ("is_terminal", "error", "status"),
    [(False, Unavailable("it is gone"), 1), (False, None, 0), (True, Unavailable("it is gone"), 0)],
)
def test_questions_from_a_pipe_are_a_success_if_all_are_answered(
    monkeypatch: pytest.MonkeyPatch, is_terminal: bool, error: TandemError | None, status: int
) -> None:
    class FailsOnce(Gateway):
        def stream(self, **arguments: Any) -> AbstractContextManager[Answers]:
            if failure := self._error:
                self._error = None
                raise failure
            return super().stream(**arguments)

    questions = Terminal if is_terminal else StringIO
    monkeypatch.setattr("sys.stdin", questions("Hi\nHow are you?\n"))
    monkeypatch.setattr(chat, "Client", lambda *_, **__: FailsOnce(error=error))
    with ExitStack() as stack:
        if status:
            end = stack.enter_context(pytest.raises(SystemExit))
        run_chat(None, GatewayFlags(), system=None, max_tokens=None, temperature=0.0)
    assert not status or end.value.code == status


def test_a_conversation_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    class Full(Answers):
        """Whoever has said more than two messages has said too much."""

        def stream(self, **arguments: Any) -> AbstractContextManager[Answers]:
            said = [each["content"] for each in arguments["messages"]]
            asked.append(said)
            self._error = ContextLengthExceeded("too long") if len(said) > 2 else None
            return super().stream(**arguments)

    inputs = iter(["Hi", "How are you?", "/new", "Bye", "/exit"])
    console, notes = (Console(file=StringIO(), width=200) for _ in range(2))
    monkeypatch.setattr(console, "input", lambda prompt: next(inputs))
    system = Message(role="system", content="Be brief.")
    client = cast(Client, Full("yes"))
    Conversation(client, GenerateArguments(), console, notes, [system]).run(NAME)
    assert asked == [
        ["Be brief.", "Hi"],
        ["Be brief.", "Hi", "yes", "How are you?"],
        ["Be brief.", "Bye"],
    ]
    noted = cast(StringIO, notes.file).getvalue()
    assert "/new begins a conversation anew\na new conversation\n" in noted


def test_what_is_too_long_alone_is_so_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    _, noted = talk(Answers(error=ContextLengthExceeded("too long")), monkeypatch)
    assert noted == ""


def test_an_answer_has_some_tokens() -> None:
    with pytest.raises(ConfigError, match="--max-tokens is a number, more than 0"):
        run_chat("Hi", GatewayFlags(), system=None, max_tokens=-3, temperature=0.0)


ANSWER = ["a\tb\r\n", "[bold]:smile: ", "\x1b]0;x\x07\x9b2J\x7f é\u2028"]


def test_an_answer_is_written_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    said, noted = talk(Answers(*ANSWER), monkeypatch)
    _, _, answer = said.partition("\n")
    assert answer == "".join(ANSWER) + "\n"
    assert "0 tokens" in noted


def test_a_terminal_obeys_no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    said, _ = talk(Answers(*ANSWER), monkeypatch, Terminal())
    _, _, answer = said.partition("\n")
    assert answer == ("a\tb\\x0d\n[bold]:smile: \\x1b]0;x\\x07\\x9b2J\\x7f é\u2028\n")
