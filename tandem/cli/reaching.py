"""How a gateway is reached by gRPC, and what to say when there is none, or it asks for a key."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import grpc

from tandem.cli.flags import GatewayFlags
from tandem.client.connection import (
    CallMetadata,
    call_metadata,
    channel_tls,
    resolve_address,
    translated_errors,
)
from tandem.core.errors import DeadlineExceeded, Unauthenticated, Unavailable
from tandem.wire.channels import open_sync_channel

SYSTEM = "system"
BY_ADDRESS = "--address HOST:PORT, its gRPC port (50050 unless set)"


class Reached(NamedTuple):
    """A gateway's channel, and what goes with each call."""

    channel: grpc.Channel
    metadata: CallMetadata


@contextmanager
def reached(gateway: GatewayFlags) -> Iterator[Reached]:
    """The gateway, for the time of the block. Raises `TandemError`, as `reaching_gateway` does."""
    with reaching_gateway(), translated_errors():
        metadata = call_metadata(api_key=gateway.api_key)
        tls = channel_tls(trusted(gateway.tls))
        with open_sync_channel(resolve_address(gateway.address), tls) as channel:
            yield Reached(channel, metadata)


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
