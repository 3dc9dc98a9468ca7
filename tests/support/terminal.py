"""A program in a terminal of its own: keys go in, and what the screen shows is read."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import re
import struct
import termios

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
DEADLINE_S = 60


class Terminal:
    """80 columns and 24 lines."""

    def __init__(self) -> None:
        self._ours, self._theirs = pty.openpty()
        fcntl.ioctl(self._theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.mode = termios.tcgetattr(self._theirs)
        self.output = ""
        self._since = 0
        self._news = asyncio.Event()
        asyncio.get_running_loop().add_reader(self._ours, self._read)

    async def run(self, *command: str) -> asyncio.subprocess.Process:
        """Start a program in it, whose group the terminal's signals go to."""
        hidden = ("COLUMNS", "LINES", "NO_COLOR")
        env = {name: value for name, value in os.environ.items() if name not in hidden}
        theirs = self._theirs
        return await asyncio.create_subprocess_exec(
            *command,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**env, "TERM": "xterm-256color"},
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(theirs, termios.TIOCSCTTY, 0),
        )

    def press(self, keys: str) -> None:
        """As if somebody did."""
        self._since = len(self.output)
        os.write(self._ours, keys.encode())

    async def until(self, text: str) -> None:
        """Wait until a text has been shown since the last key."""
        async with asyncio.timeout(DEADLINE_S):
            while text not in ESCAPES.sub("", self.output[self._since :]):
                self._news.clear()
                await self._news.wait()

    def is_as_before(self) -> bool:
        """Whether the terminal is in the mode that it was in."""
        return termios.tcgetattr(self._theirs) == self.mode

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._ours)
        os.close(self._ours)
        os.close(self._theirs)

    def _read(self) -> None:
        self.output += os.read(self._ours, 2**16).decode(errors="replace")
        self._news.set()
