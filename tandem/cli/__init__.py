"""The `tandem` command. Starts services as processes of their own, and imports none of them."""

from tandem.cli.app import app

__all__ = ["app"]
