"""Finds the calls in a text that comes piece by piece. Pure.

A text becomes a call once its beginning is beyond doubt: the marks, a known tool's name, and the
brace that opens the arguments. From there on the arguments are passed on as they come. What only
looks like a call comes out as the text that it is.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from gateway.tools.json_scan import ObjectScanner
from gateway.tools.syntax import PYTHON_TAG, CallSyntax
from gateway.tools.tool import ToolCallDelta

# A beginning that is longer is waited for until its object is complete.
MAX_HEAD_CHARS = 512
FIRST_KEY = re.compile(r'\{\s*"([^"\\]*)"')
# Models take the one for the other, whatever their template says.
ARGUMENTS_KEYS = ("arguments", "parameters")
HEAD = re.compile(
    rf'\{{\s*"name"\s*:\s*"(?P<name>[^"\\]*)"\s*,\s*"(?:{"|".join(ARGUMENTS_KEYS)})"\s*:\s*(?=\{{)'
)


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a piece of text brought: plain content, then pieces of calls."""

    content: str = ""
    calls: tuple[ToolCallDelta, ...] = ()


class ToolCallParser:
    """Parses one choice's text."""

    def __init__(
        self,
        syntax: CallSyntax,
        names: Collection[str],
        max_calls: int | None = None,
        new_id: Callable[[], str] = lambda: f"call_{secrets.token_hex(12)}",
    ) -> None:
        """`names` are the tools that may be called. After the `max_calls`-th call it is `done`, and
        drops what follows."""
        self._syntax = syntax
        self._names = names
        self._max_calls = max_calls
        self._new_id = new_id
        self.num_calls = 0
        self._step = self._in_text if syntax.opening else self._at_start
        self._buffer = ""
        # What led to the present object, in pieces: the text that it is if it is no call.
        self._marks: list[str] = []
        # The present object's beginning, in pieces, once it is beyond `MAX_HEAD_CHARS`.
        self._object: list[str] = []
        self._space: list[str] = []
        self._scanner = ObjectScanner()
        self._num_scanned = 0
        self._content: list[str] = []
        self._calls: list[ToolCallDelta] = []

    @property
    def done(self) -> bool:
        """Whether all calls were made that may be made: nothing more can come of the text."""
        return self._step == self._after_all

    def push(self, text: str) -> Parsed:
        """Take more text; what is certain by now."""
        self._buffer += text
        while self._step():
            pass
        return self._take()

    def flush(self) -> Parsed:
        """The rest, once there is no more text."""
        if self._step not in (
            self._in_arguments,
            self._after_arguments,
            self._in_other_keys,
            self._after_call,
            self._after_all,
        ):
            self._give_up(self._buffer)
        if not self.num_calls:
            self._content += self._space
        self._buffer = ""
        self._space.clear()
        return self._take()

    def _take(self) -> Parsed:
        if not (self._content or self._calls):
            return Parsed()
        parsed = Parsed("".join(self._content), tuple(self._calls))
        self._content.clear()
        self._calls.clear()
        return parsed

    # Each of these does what it can with the buffer, and says whether the next one can go on. What
    # waits is moved out of the buffer, so that no character is looked at with every piece to come.

    def _at_start(self) -> bool:
        """Calls without an opening: all of the text or nothing."""
        self._skip_space()
        if PYTHON_TAG.startswith(self._buffer):
            return False
        if self._buffer.startswith(PYTHON_TAG):
            self._skip(len(PYTHON_TAG))
        self._step = self._before_object
        return True

    def _in_plain_text(self) -> bool:
        self._add_content(self._buffer)
        self._buffer = ""
        return False

    def _in_text(self) -> bool:
        opening = self._syntax.opening
        before, found, after = self._buffer.partition(opening)
        if found:
            self._add_content(before)
            self._buffer = after
            self._begin_object(opening)
            if self._syntax.list_opening:
                self._step = self._before_list
            return True
        held = _overlap(self._buffer, opening)
        self._add_content(self._buffer[: len(self._buffer) - held])
        self._buffer = self._buffer[len(self._buffer) - held :]
        return False

    def _before_list(self) -> bool:
        self._skip_space()
        if not self._buffer:
            return False
        if not self._buffer.startswith(self._syntax.list_opening):
            return self._go_on_as_text()
        self._skip(len(self._syntax.list_opening))
        self._step = self._before_object
        return True

    def _before_object(self) -> bool:
        """Until the object's first character."""
        self._skip_space()
        if not self._buffer:
            return False
        if not self._buffer.startswith("{"):
            return self._go_on_as_text()
        self._step = self._in_head
        return True

    def _in_head(self) -> bool:
        if match := self._match_head():
            self._buffer = self._buffer[match.end() :]
            self._add_call(match["name"], "")
            self._scanner = ObjectScanner()
            self._step = self._in_arguments
            return True
        if self._is_something_else():
            return self._go_on_as_text()
        end = self._scanner.find_end(self._buffer[self._num_scanned :])
        if end is not None:
            return self._on_object(self._num_scanned + end)
        self._num_scanned = len(self._buffer)
        if self._num_scanned > MAX_HEAD_CHARS:
            self._object = [self._buffer]
            self._buffer = ""
            self._step = self._in_long_object
        return False

    def _in_long_object(self) -> bool:
        end = self._scanner.find_end(self._buffer)
        if end is not None:
            return self._on_object(end)
        self._object.append(self._buffer)
        self._buffer = ""
        return False

    def _on_object(self, end: int) -> bool:
        """Up to `end` of the buffer the object is complete: a call in any order, or text."""
        text = "".join([*self._object, self._buffer[:end]])
        self._object.clear()
        self._buffer = self._buffer[end:]
        call = _read_call(text)
        if call is None or call[0] not in self._names:
            return self._go_on_as_text(text)
        self._add_call(*call)
        self._step = self._after_call
        return True

    def _in_arguments(self) -> bool:
        end = self._scanner.find_end(self._buffer)
        piece = self._buffer if end is None else self._buffer[:end]
        if piece:
            self._calls.append(ToolCallDelta(self.num_calls - 1, piece))
        self._buffer = self._buffer[len(piece) :]
        if end is None:
            return False
        # The object around the arguments is still open.
        self._scanner = ObjectScanner(depth=1)
        self._step = self._after_arguments
        return True

    def _after_arguments(self) -> bool:
        """Other keys of the object are dropped."""
        self._buffer = self._buffer.lstrip()
        if not self._buffer:
            return False
        is_open = self._buffer.startswith((",", "}"))
        self._step = self._in_other_keys if is_open else self._after_call
        return True

    def _in_other_keys(self) -> bool:
        end = self._scanner.find_end(self._buffer)
        self._buffer = "" if end is None else self._buffer[end:]
        if end is None:
            return False
        self._step = self._after_call
        return True

    def _after_call(self) -> bool:
        if self.num_calls == self._max_calls:
            self._step = self._after_all
            return True
        text = self._buffer = self._buffer.lstrip()
        closing = self._syntax.closing or self._syntax.list_closing
        if not text or (closing != text and closing.startswith(text)):
            return False
        if self._syntax.separator and text.startswith(self._syntax.separator):
            self._buffer = text[len(self._syntax.separator) :]
            self._begin_object()
            return True
        self._buffer = text.removeprefix(closing)
        self._step = self._in_text if self._syntax.opening else self._in_plain_text
        return True

    def _after_all(self) -> bool:
        self._buffer = ""
        return False

    def _match_head(self) -> re.Match[str] | None:
        match = HEAD.match(self._buffer[:MAX_HEAD_CHARS])
        return match if match and match["name"] in self._names else None

    def _is_something_else(self) -> bool:
        """Whether the object's first key is none that a call begins with."""
        first = FIRST_KEY.match(self._buffer[:MAX_HEAD_CHARS])
        return first is not None and first[1] not in ("name", "type", *ARGUMENTS_KEYS)

    def _begin_object(self, *marks: str) -> None:
        self._marks = [*marks]
        self._scanner = ObjectScanner()
        self._num_scanned = 0
        self._step = self._before_object

    def _skip_space(self) -> None:
        self._skip(len(self._buffer) - len(self._buffer.lstrip()))

    def _skip(self, num_chars: int) -> None:
        """So much of the buffer leads to the object."""
        if num_chars:
            self._marks.append(self._buffer[:num_chars])
            self._buffer = self._buffer[num_chars:]

    def _go_on_as_text(self, text: str = "") -> bool:
        """What was taken for a call is none: what led to it and `text`, which is no longer in the
        buffer, are content."""
        self._give_up(text)
        self._step = self._in_text if self._syntax.opening else self._in_plain_text
        return True

    def _give_up(self, text: str) -> None:
        self._add_content("".join([*self._marks, *self._object, text]))
        self._marks.clear()
        self._object.clear()

    def _add_call(self, name: str, arguments: str) -> None:
        self._space.clear()
        self._marks.clear()
        self._calls.append(ToolCallDelta(self.num_calls, arguments, self._new_id(), name))
        self.num_calls += 1

    def _add_content(self, text: str) -> None:
        """Space at the end waits: before a call it is dropped."""
        shown = text.rstrip()
        if shown:
            self._content += [*self._space, shown]
            self._space.clear()
        if len(shown) < len(text):
            self._space.append(text[len(shown) :])


def _read_call(text: str) -> tuple[str, str] | None:
    """Name and arguments, as JSON text, of a complete object in any order. Some models write the
    arguments as a string that holds them."""
    call = _read_object(text)
    if call is None or not isinstance(name := call.get("name"), str):
        return None
    key = next((key for key in call if key in ARGUMENTS_KEYS), None)
    if key is None:
        # With other keys they may be anywhere: no tool is called without them.
        return (name, "{}") if call.keys() <= {"name", "type"} else None
    match call[key]:
        case dict(arguments):
            return name, json.dumps(arguments)
        case str(arguments) if _read_object(arguments) is not None:
            return name, arguments
    return None


def _read_object(text: str) -> dict[str, Any] | None:
    """None if it is no JSON object."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _overlap(text: str, mark: str) -> int:
    """How many characters at the text's end may begin the mark."""
    for length in range(min(len(text), len(mark) - 1), 0, -1):
        if text.endswith(mark[:length]):
            return length
    return 0
