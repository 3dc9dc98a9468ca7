"""How a process ends: before its service listens for signals, and for want of one."""

import subprocess
import sys

import pytest

from tandem.core.errors import ConfigError, InvalidRequest, TandemError
from tandem.process.lifetime import run

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


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ConfigError("must be less", param="max_model_len"), "--max-model-len: must be less"),
        (ConfigError("no certificates"), "no certificates"),
        (InvalidRequest("must be less", param="top_k"), "must be less"),
    ],
)
def test_a_flag_that_is_wrong_is_named(error: TandemError, said: str) -> None:
    async def serve() -> None:
        raise error

    with pytest.raises(SystemExit) as caught:
        run(serve())
    assert caught.value.code == f"error: {said}"
