"""Whom the load tool trusts."""

from __future__ import annotations

import os
import ssl

from tandem.core.errors import ConfigError

AUTHORITIES = "SSL_CERT_FILE"


def tls_context(url: str) -> ssl.SSLContext | None:
    """What speaks TLS to a server: to be made once, since it reads all the system's authorities,
    which takes tens of milliseconds; None for a URL without TLS. Raises `ConfigError` if the
    authorities that the environment names cannot be read."""
    if not url.startswith("https:"):
        return None
    context = ssl.create_default_context()
    if path := os.environ.get(AUTHORITIES):
        try:
            context.load_verify_locations(path)
        except OSError as error:
            raise ConfigError(f"{AUTHORITIES}: no certificates in {path}: {error}") from None
    return context
