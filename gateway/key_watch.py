"""Keys that are given and taken back while the gateway runs."""

from __future__ import annotations

import asyncio
from contextlib import closing
from pathlib import Path

import structlog

from gateway.access import Access, KeySources
from gateway.own_thread import OwnThread
from tandem.core.errors import ConfigError

log = structlog.get_logger(__name__)

INTERVAL_S = 1.0


class KeyWatch:
    """Has `access` follow the file of keys.

    What it says counts once it has said the same twice: an editor or a copy may not be done with
    it. A file that cannot be read, holds no such keys, or nothing at all, changes nothing: whoever
    may ask goes on to. Nor are keys taken of tenants that the gateway does not know, since queues
    and quotas are laid out for those that were there when it started. Both are logged.
    """

    def __init__(self, sources: KeySources, access: Access) -> None:
        self._sources = sources
        self._access = access
        # Nothing, though `access` has what the file said just before: it may have changed since.
        self._taken: bytes | None = None
        self._seen: bytes | None = None
        self._trouble = ""

    async def run(self) -> None:
        """Look at the file, for as long as this is not cancelled."""
        if self._sources.file is None:
            return
        # Of another machine, it may keep whoever looks at it waiting.
        with closing(OwnThread("read API keys")) as thread:
            while True:
                await thread.run(self.look)
                await asyncio.sleep(INTERVAL_S)

    def look(self) -> None:
        """Take what the file says now, if it has changed, and said so the last time."""
        assert self._sources.file is not None
        # Not by its time: two changes may have the same.
        seen, seen_before = _bytes_of(self._sources.file), self._seen
        self._seen = seen
        if seen is not None and seen == self._taken:
            self._trouble = ""
            return
        if seen != seen_before:
            return
        try:
            owners = self._read(self._sources.file)
        except ConfigError as error:
            # It is tried again, and told of once.
            if self._trouble != str(error):
                self._trouble = str(error)
                log.error("API keys stay as they were", why=self._trouble)
            return
        if seen is None or seen != _bytes_of(self._sources.file):
            return
        is_first = self._taken is None
        self._taken, self._trouble = seen, ""
        known = self._access.tenants
        if unknown := sorted({name for name in owners.values() if name not in known}):
            log.warning("their API keys count once the gateway is started anew", tenants=unknown)
        self._access.use({digest: name for digest, name in owners.items() if name in known})
        if not is_first:
            log.info("API keys have changed", num_keys=len(owners))

    def _read(self, file: Path) -> dict[str, str]:
        """Whose the keys are. Raises `ConfigError`."""
        owners = self._sources.read()
        if not (_bytes_of(file) or b"").strip():
            raise ConfigError(f"{file} is empty: a comment in it says that nobody shall have a key")
        return owners


def _bytes_of(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None  # Whoever reads it for its keys says why.
