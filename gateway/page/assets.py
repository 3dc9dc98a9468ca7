"""The page's files, read once and served from memory."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files

MEDIA_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}


@dataclass(frozen=True, slots=True)
class Asset:
    """A file. The `etag` changes with its content."""

    content: bytes
    media_type: str
    etag: str


def read_assets() -> Mapping[str, Asset]:
    """All files, by name."""
    folder = files("gateway.page") / "static"
    return {each.name: _asset(each.name, each.read_bytes()) for each in folder.iterdir()}


def page_paths() -> list[str]:
    """Where the page is, and all that it loads."""
    return ["/", *(f"/page/{name}" for name in read_assets())]


def _asset(name: str, content: bytes) -> Asset:
    media_type = MEDIA_TYPES[name.rpartition(".")[2]]
    return Asset(content, media_type, f'"{hashlib.sha256(content).hexdigest()[:16]}"')
