"""What every request to a server says."""

from __future__ import annotations

import os

from tandem.wire.metadata import API_KEY_VARIABLE


def authorization(api_key: str | None) -> dict[str, str]:
    """The header for a key, or for that of the environment, if there is one."""
    key = api_key or os.environ.get(API_KEY_VARIABLE)
    return {"Authorization": f"Bearer {key}"} if key else {}
