"""`tandem keys` and `tandem certs`: what clients and services prove who they are with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tandem.cli.flags import flag

CERTIFICATE_DAYS = 365
# A century, which dates have room for.
MAX_DAYS = 36_500


def keys(
    tenant: Annotated[str, typer.Argument(help="whose it is")] = "default",
    *,
    api_keys: Annotated[
        Path, flag("api-keys", "the gateway's file of keys; made if it is not there")
    ],
) -> None:
    """Make an API key for a tenant, and print it: the file has only its hash.

    A key is revoked by removing its line. A running gateway hears of either within two seconds; of
    a new tenant's keys when it starts.
    """
    from tandem.process.api_keys import add_api_key

    typer.echo(add_api_key(api_keys, tenant))


def certs(
    *,
    tls_dir: Annotated[Path, flag("tls-dir", "folder for them, a folder in it for each role")],
    days: Annotated[
        int, typer.Option(min=1, max=MAX_DAYS, help="how long they hold")
    ] = CERTIFICATE_DAYS,
) -> None:
    """Make certificates for gateway, prefill and decode workers, of an authority of their own.

    Each process needs the folder of its role, and no other; `ca` only whoever runs this again,
    which makes new ones that get on with the old.
    """
    from tandem.process.certificates import make_certificates

    end = make_certificates(tls_dir, days)
    typer.echo(f"{tls_dir}: certificates until {end:%Y-%m-%d}")
