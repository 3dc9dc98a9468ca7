"""How a process ends before its service listens for signals."""

import subprocess
import sys

PROGRAM = """
import signal
from tandem.process.lifetime import end_on_signals
end_on_signals()
print("begun", flush=True)
signal.pause()
"""


def test_sigterm_ends_a_process_that_still_loads() -> None:
    """By a handler, since the kernel ends no first process of a container."""
    command = [sys.executable, "-c", PROGRAM]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "begun\n"
        process.terminate()
        assert process.wait(30) == 128 + 15
