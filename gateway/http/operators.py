"""Whether an order came from an operator, and not from a page that his browser was led to.

A browser sends what any page asks it to, from where its user is: pages from elsewhere reach a
gateway on loopback, and one behind a firewall, as well as he does. Where there are keys no other
page has one. All the same no order is taken that a page of another origin could have sent; and
without keys none for a host by name, since whoever owns a name can let it lead here, to a page of
his own that then has the gateway's origin.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address
from urllib.parse import urlsplit

from tandem.core.errors import PermissionDenied

# No form has headers, and what has one a browser sends elsewhere only after it has asked whether it
# may. Nobody here says that it may.
OPERATOR_KEY = "x-tandem-operator"


def check_own_page(headers: Mapping[str, str], *, is_open: bool) -> None:
    """Raise `PermissionDenied` for an order, with these headers in lower case, that a page from
    elsewhere may have sent. `is_open`: nobody needs a key."""
    if OPERATOR_KEY not in headers:
        raise PermissionDenied(f"an order takes the header {OPERATOR_KEY}")
    host = headers.get("host", "")
    if not _is_from_here(headers, host):
        raise PermissionDenied("a page from elsewhere may not give orders")
    if is_open and not _is_no_name(host):
        raise PermissionDenied(
            "without API keys, orders are taken at localhost or an address in numbers, not at a"
            " name: `tandem drain` gives them by gRPC"
        )


def _is_from_here(headers: Mapping[str, str], host: str) -> bool:
    """Browsers say the one over TLS and to loopback, and else the other; no page can change that.
    What is no browser says neither."""
    if site := headers.get("sec-fetch-site"):
        return site == "same-origin"
    origin = headers.get("origin")
    return origin is None or urlsplit(origin).netloc.lower() == host.lower()


def _is_no_name(host: str) -> bool:
    """Whether no name server was asked for it."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or bool(ip_address(name))
    except ValueError:
        return False
