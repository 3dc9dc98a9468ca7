"""A stderr that was closed before the process began."""

from __future__ import annotations

import os
import sys


def open_stderr() -> None:
    """If it is closed: what is written to it then goes nowhere, whatever it is, and what is opened
    next does not take its place."""
    if sys.stderr is None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        # As Python's own: there are names of files that are no text.
        sys.stderr = os.fdopen(nowhere, "w", errors="backslashreplace")
