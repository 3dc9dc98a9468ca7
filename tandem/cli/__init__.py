"""The `tandem` command. Starts services as processes of their own, and imports none of them."""

import signal
import sys

try:
    from tandem.cli.app import app
except KeyboardInterrupt:
    # The imports take their time. Of what comes later `app` makes the same.
    sys.exit(128 + signal.SIGINT)

__all__ = ["app"]
