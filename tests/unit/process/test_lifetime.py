"""How a process ends: before its service listens for signals, and for want of one."""

import asyncio
import os
import signal
import subprocess
import sys

import pytest

from tandem.core.errors import ConfigError, InvalidRequest, TandemError
from tandem.process.lifetime import END_WITH_PARENT, STOP_SIGNALS, StopSignals, run

PROGRAM = """
import signal
from tandem.process.lifetime import begin
begin()
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


COLLECTING = """
import gc
from tandem.process.lifetime import begin, settle
begin()
print(gc.isenabled())
settle()
print(gc.isenabled(), gc.get_freeze_count() > 0)
"""


def test_the_garbage_collector_rests_until_a_service_is_put_together() -> None:
    command = [sys.executable, "-c", COLLECTING]
    said = subprocess.run(command, capture_output=True, check=True, text=True, timeout=60)
    assert said.stdout.split() == ["False", "True", "True"]


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


@pytest.mark.parametrize(
    ("is_supervised", "second", "at_once"),
    [
        (False, signal.SIGTERM, True),
        (False, signal.SIGINT, True),
        # Its supervisor's, and that of whoever ends both.
        (True, signal.SIGTERM, False),
        (True, signal.SIGINT, True),
    ],
)
async def test_a_second_signal_asks_for_the_end_at_once(
    is_supervised: bool, second: signal.Signals, at_once: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(END_WITH_PARENT, str(os.getppid()) if is_supervised else "")
    signals = StopSignals()
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        await signals.asked.wait()
        assert not signals.at_once.is_set()
        os.kill(os.getpid(), second)
        # The loop hears of signals in their order.
        behind = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, behind.set)
        os.kill(os.getpid(), signal.SIGUSR1)
        await behind.wait()
        assert signals.at_once.is_set() is at_once
    finally:
        for number in (*STOP_SIGNALS, signal.SIGUSR1):
            asyncio.get_running_loop().remove_signal_handler(number)
