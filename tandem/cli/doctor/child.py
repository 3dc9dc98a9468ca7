"""Asking other programs, none of which can be trusted to answer."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

NO_ANSWER = "no answer within"


@dataclass(frozen=True)
class Answer:
    """What a program said. `failure` is empty if it ended well, else its last word."""

    text: str
    failure: str = ""

    @property
    def is_late(self) -> bool:
        """Whether it said nothing in the time that it had."""
        return self.failure.startswith(NO_ANSWER)


def ask(
    command: Sequence[str], timeout_s: float, environment: Mapping[str, str] | None = None
) -> Answer | None:
    """Run a command to its end. `environment` is added to this process's. None if there is no such
    program."""
    if shutil.which(command[0]) is None:
        return None
    try:
        process = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **(environment or {})},
        )
    except subprocess.TimeoutExpired:
        return Answer("", f"{NO_ANSWER} {timeout_s:g} s")
    except OSError as error:
        return Answer("", error.strerror or str(error))
    if process.returncode == 0:
        return Answer(process.stdout.strip())
    return Answer(process.stdout.strip(), _last_word(process))


def _last_word(process: subprocess.CompletedProcess[str]) -> str:
    if process.returncode < 0:
        return f"killed by {signal.Signals(-process.returncode).name}"
    lines = [*filter(str.strip, process.stderr.splitlines())]
    return lines[-1].strip() if lines else f"exit status {process.returncode}"
