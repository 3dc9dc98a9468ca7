"""Where a proxy of the environment (`http_proxy`, `https_proxy` and the like) has a place.

It is a site's way out. What speaks plain text is within the site, as are gateway and workers to
each other: a proxy knows none of these, and is not to see what they say. That leaves TLS to
elsewhere.
"""

from __future__ import annotations

from tandem.core.address import is_loopback


def may_take_proxy(host: str, *, has_tls: bool) -> bool:
    """Whether a client of a server on `host` goes by the environment's proxy, if there is one."""
    return has_tls and not is_loopback(host)
