"""API keys: a file of whose they are, in which the keys themselves do not stand.

Each line of the file is the SHA-256 of a key and the name of its tenant, as TOML. A key is 32
random bytes, which nobody finds by trying, so that a fast hash is as good as a slow one.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import tomllib
from collections.abc import Mapping
from pathlib import Path

from tandem.core.errors import ConfigError
from tandem.wire.metadata import TENANT_NAME

KEY_PREFIX = "tandem-"
NUM_RANDOM_BYTES = 32
_DIGEST = re.compile(r"[0-9a-f]{64}")
_KEY = re.compile(r"[!-~]{1,512}")  # what an HTTP header takes, without spaces


class ApiKeys:
    """Whose each key is. `tenants` are by the keys' digests, see `digest_of`."""

    def __init__(self, tenants: Mapping[str, str]) -> None:
        # A table is not searched in constant time. So what is compared is no digest, of which a
        # caller could know or choose some bytes, but its code under a secret of this process: the
        # time that takes says nothing of any key.
        self._secret = secrets.token_bytes(32)
        self._tenants = {self._code(digest): tenant for digest, tenant in tenants.items()}

    def tenant_of(self, key: str) -> str | None:
        """Whose `key` is; None if it is not known."""
        return self._tenants.get(self._code(digest_of(key)))

    @property
    def tenants(self) -> frozenset[str]:
        """Those that have keys."""
        return frozenset(self._tenants.values())

    def _code(self, digest: str) -> bytes:
        return hmac.digest(self._secret, digest.encode(), "sha256")


def digest_of(key: str) -> str:
    """What stands for a key in the file: its SHA-256, as 64 hexadecimal digits."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def check_api_key(key: str) -> None:
    """Raise `ConfigError` for what no client could send. An empty one is no wish for none: more
    likely it was to come from somewhere, and did not."""
    if not _KEY.fullmatch(key):
        raise ConfigError(
            "an API key has 1 to 512 printable ASCII characters, and no spaces", param="api_key"
        )


def read_api_keys(path: Path) -> dict[str, str]:
    """Tenants' names by the digests of their keys. Raises `ConfigError`."""
    try:
        table = tomllib.loads(_read_text(path))
    except ValueError as error:
        raise _config_error(path, f"is not TOML: {error}") from None
    for digest, tenant in table.items():
        if not _DIGEST.fullmatch(digest):
            raise _config_error(path, f"{digest[:80]!a} is no SHA-256: see `tandem keys`")
        if not isinstance(tenant, str) or not TENANT_NAME.fullmatch(tenant):
            raise _config_error(path, f"{digest[:8]}: its tenant's name is none: {tenant!a:.80}")
    return table


def add_api_key(path: Path, tenant: str) -> str:
    """Make a key for a tenant, and note it in the file, which may be new. The key is nowhere but in
    what is returned. Raises `ConfigError`."""
    if not TENANT_NAME.fullmatch(tenant):
        raise ConfigError(f"{tenant!a:.80}: a name has 1 to 64 ASCII letters, digits and . _ -")
    # Not by `path.exists`, which raises where a folder may not be looked into.
    text = _read_text(path) if os.path.exists(path) else ""
    if text:
        read_api_keys(path)
    key = KEY_PREFIX + secrets.token_urlsafe(NUM_RANDOM_BYTES)
    separator = "" if not text or text.endswith("\n") else "\n"
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(f'{separator}{digest_of(key)} = "{tenant}"\n')
    except OSError as error:
        raise _config_error(path, f"cannot be written: {error.strerror}") from None
    return key


def _read_text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except OSError as error:
        raise _config_error(path, f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise _config_error(path, "is not UTF-8") from None


def _config_error(path: Path, what: str) -> ConfigError:
    return ConfigError(f"{path} {what}", param="api_keys")
