"""What to say when there is no gateway."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tandem.core.errors import DeadlineExceeded, Unavailable


@contextmanager
def reaching_gateway() -> Iterator[None]:
    """Raises `Unavailable` that says what to do if nobody answers within."""
    try:
        yield
    except (Unavailable, DeadlineExceeded) as error:
        raise Unavailable(
            f"no gateway answers ({error.message}): start one with `tandem up`, or name one with"
            " --address HOST:PORT"
        ) from None
