"""Whom the load tool and `tandem top` trust."""

from __future__ import annotations

import os
import ssl

from httpx2 import create_ssl_context

from tandem.core.errors import ConfigError

AUTHORITIES = "SSL_CERT_FILE"


def tls_context(url: str) -> ssl.SSLContext | None:
    """What speaks TLS to a server: to be made once, since it reads all the system's authorities,
    which takes tens of milliseconds; None for a URL without TLS. Raises `ConfigError` if the
    authorities that the environment names cannot be read."""
    if not url.startswith("https:"):
        return None
    try:
        return create_ssl_context()
    except OSError as error:
        path = os.environ.get(AUTHORITIES, "")
        raise ConfigError(f"{AUTHORITIES}: no certificates in {path}: {error}") from None
