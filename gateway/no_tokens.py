"""The stream of a choice of which no worker is told."""

from __future__ import annotations

from collections.abc import Callable

from gateway.tokens import Ended, ServedBy
from tandem.core.sequence import FinishReason


class NoTokens:
    """The stream of a choice of which nothing is generated."""

    def subscribe(self, on_events: Callable[[], None]) -> None:
        on_events()

    has_more = False

    def take(self) -> tuple[Ended]:
        return (self.stop(),)

    def stop(self) -> Ended:
        return Ended(FinishReason.LENGTH, ServedBy("", ""))

    def cancel(self) -> None:
        pass
