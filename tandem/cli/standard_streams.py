"""stdin, stdout and stderr that may be closed, full, or read by nobody."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper

from tandem.core.errors import ConfigError
from tandem.process.closed_stderr import open_stderr

# What a disk, or a descriptor that is closed, has against being written to.
UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF}
STDOUT = 1


@contextmanager
def standard_streams() -> Iterator[None]:
    """They are there within, and what is printed to stdout is written at the end. Raises
    `ConfigError` for what the system has against it, and `SystemExit` if nobody reads any more."""
    _open()
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except OSError as error:
        _drop_stdout()
        if error.errno == errno.EPIPE:
            sys.exit(1)
        if error.errno not in UNWRITABLE:
            raise
        raise ConfigError(f"cannot write: {error.strerror}") from None


def _open() -> None:
    # In the place of one that is closed whatever is opened next would be read, or printed to. These
    # take the place, and not that of a program which this process becomes.
    if sys.stdin is None:
        sys.stdin = os.fdopen(os.open(os.devnull, os.O_RDONLY))
    if sys.stdout is None:
        # To be read: so it is as little written to as before.
        sys.stdout = os.fdopen(os.open(os.devnull, os.O_RDONLY), "w")
    open_stderr()
    if isinstance(sys.stdout, TextIOWrapper):
        # In a locale without the signs of a chart, or of an answer, a question mark.
        sys.stdout.reconfigure(errors="replace")


def _drop_stdout() -> None:
    """What it still holds would be tried again at the interpreter's end, which has words of its own
    for that."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, STDOUT)
    os.close(nowhere)
