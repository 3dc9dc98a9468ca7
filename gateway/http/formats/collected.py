"""A choice as a whole."""

from __future__ import annotations

from gateway.choice import Delta, Finished
from gateway.tools.tool import ToolCall, ToolCallDelta


class CollectedChoice:
    """Gathers the deltas of one choice."""

    def __init__(self) -> None:
        self.finished: Finished | None = None
        self._texts: list[str] = []
        self._heads: list[ToolCallDelta] = []
        self._arguments: list[list[str]] = []

    @property
    def text(self) -> str:
        """What is no call."""
        return "".join(self._texts)

    @property
    def calls(self) -> list[ToolCall]:
        """The calls, in order."""
        return [
            ToolCall(head.id, head.name, "".join(pieces))
            for head, pieces in zip(self._heads, self._arguments, strict=True)
        ]

    def add(self, event: Delta | Finished) -> None:
        """Take the next event."""
        if isinstance(event, Finished):
            self.finished = event
            return
        self._texts.append(event.text)
        for call in event.calls:
            if call.id:
                self._heads.append(call)
                self._arguments.append([])
            self._arguments[call.index].append(call.arguments)
