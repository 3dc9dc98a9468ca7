"""How a gateway is reached by TLS, and what to say when there is none, or it asks for a key."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tandem.core.errors import DeadlineExceeded, Unauthenticated, Unavailable

SYSTEM = "system"
BY_ADDRESS = "--address HOST:PORT, its gRPC port (50050 unless set)"


def trusted(tls: str | None) -> bool | Path:
    """The flag `--tls`, as a client's `tls`."""
    return tls == SYSTEM or (Path(tls) if tls else False)


@contextmanager
def reaching_gateway(naming: str = BY_ADDRESS) -> Iterator[None]:
    """Raises `Unavailable` that says what to do if nobody answers within, and `Unauthenticated` if
    it is asked for a key. `naming` is how another gateway is named."""
    try:
        yield
    except Unauthenticated as error:
        raise Unauthenticated(f"{error.message}: see --api-key and TANDEM_API_KEY") from None
    except (Unavailable, DeadlineExceeded) as error:
        raise Unavailable(
            f"no gateway answers ({error.message}): start one with `tandem up`, or name one with"
            f" {naming}"
        ) from None
