"""A terminal's keys, as they are pressed."""

from __future__ import annotations

import os
import re
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager

# What a terminal sends for a key of more than one character; such as are not known do nothing.
SEQUENCES = {
    "\x1b[A": "up",
    "\x1b[B": "down",
    "\x1b[C": "right",
    "\x1b[D": "left",
    "\x1b[F": "end",
    "\x1b[4~": "end",
}
KEY = re.compile(r"\x1b[\[O][0-9;]*[A-Za-z~]|[^\x1b]", re.DOTALL)
_SPECIAL_CHARACTERS = 6
_NONE = bytes([0])


@contextmanager
def keys_as_pressed(fd: int) -> Iterator[None]:
    """For the time of the block, keys come at once and are not echoed. Ctrl-C is a signal as
    always; Ctrl-Z is none, since what the screen shows would be left there."""
    before = termios.tcgetattr(fd)
    tty.setcbreak(fd)
    mode = termios.tcgetattr(fd)
    mode[_SPECIAL_CHARACTERS][termios.VSUSP] = _NONE
    termios.tcsetattr(fd, termios.TCSADRAIN, mode)
    try:
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


def read_keys(fd: int) -> list[str] | None:
    """The keys that have been pressed: characters, or names such as `up`; none of those that are
    not known. None if the terminal is gone."""
    data = os.read(fd, 1024)
    return parse_keys(data.decode(errors="replace")) if data else None


def parse_keys(text: str) -> list[str]:
    """What a terminal has sent, as keys."""
    keys = []
    for sent in KEY.findall(text):
        is_known = len(sent) == 1 or sent.replace("\x1bO", "\x1b[") in SEQUENCES
        if is_known:
            keys.append(SEQUENCES.get(sent.replace("\x1bO", "\x1b["), sent))
    return keys
