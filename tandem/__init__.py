"""Tandem: LLM serving that splits prefill from decode."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tandem.client import AsyncClient, Client

__all__ = ["AsyncClient", "Client"]


def __getattr__(name: str) -> object:
    # Only who asks for a client pays for gRPC: every part of Tandem imports this package.
    if name in __all__:
        from tandem import client

        return getattr(client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
