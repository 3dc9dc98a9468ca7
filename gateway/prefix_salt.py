"""Who may share cached KV with whom."""

from __future__ import annotations

import hashlib


def prefix_salt(tenant: str, cache_salt: str) -> bytes:
    """The salt of a caller's prompts: the tenant's own, which the client's salt narrows further. So
    no salt that a client could choose opens another tenant's cache, or lets it be timed."""
    parts = [text.encode("utf-8", "surrogatepass") for text in (tenant, cache_salt)]
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).digest()
