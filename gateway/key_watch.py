"""Keys that are given and taken back while the gateway runs."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import structlog

from gateway.access import Access, KeySources
from tandem.core.errors import ConfigError

log = structlog.get_logger(__name__)

INTERVAL_S = 1.0

# What of a file is another once somebody has written it, or put another in its place: Kubernetes
# does so with the files of a secret.
Version = tuple[int, int, int] | None


class KeyWatch:
    """Has `access` follow the file of keys.

    A file that cannot be read, or holds no such keys, changes nothing: whoever may ask goes on to.
    Nor are keys taken of tenants that the gateway does not know, since queues and quotas are laid
    out for those that were there when it started. Both are logged.
    """

    def __init__(self, sources: KeySources, access: Access) -> None:
        self._sources = sources
        self._access = access
        # Nothing, though `access` has what the file said just before: it may have changed since.
        self._seen: Version = None
        self._owners: dict[str, str] | None = None

    async def run(self) -> None:
        """Look at the file, for as long as this is not cancelled."""
        if self._sources.file is None:
            return
        while True:
            # On a thread: a file of another machine may keep whoever looks at it waiting.
            await asyncio.to_thread(self.look)
            await asyncio.sleep(INTERVAL_S)

    def look(self) -> None:
        """Take what the file says now, if it has changed."""
        assert self._sources.file is not None
        version = _version(self._sources.file)
        if version == self._seen:
            return
        self._seen = version
        try:
            owners = self._sources.read()
        except ConfigError as error:
            log.warning("API keys stay as they were", why=str(error))
            return
        known = self._access.tenants
        if unknown := sorted({name for name in owners.values() if name not in known}):
            log.warning("their API keys count once the gateway is started anew", tenants=unknown)
        self._access.use({digest: name for digest, name in owners.items() if name in known})
        if self._owners not in (None, owners):
            log.info("API keys have changed", num_keys=len(owners))
        self._owners = owners


def _version(path: Path) -> Version:
    try:
        stat = os.stat(path)
    except OSError:
        return None  # Whoever reads it says why.
    return stat.st_mtime_ns, stat.st_size, stat.st_ino
