"""`tandem up` around its fleet: signals, logs."""

import asyncio
import signal
from pathlib import Path

from rich.console import Console

from tandem.cli.fleet import Fleet, Service
from tandem.cli.supervisor import Supervisor
from tandem.cli.up import _new_logs, _until_signal

FLEET = Fleet((Service("decode-0", ("true",), port=1),), Service("gateway", ("true",), port=2))


def test_the_logs_of_the_run_before_are_kept(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    for words in ("first", "second"):
        _new_logs(folder, FLEET)
        assert (folder / "gateway.log").read_text() == ""
        (folder / "gateway.log").write_text(words)
    assert (folder / "gateway.log.1").read_text() == "first"


async def test_who_is_not_to_hear_of_a_terminals_end_does_not() -> None:
    """As by nohup."""
    seen = []

    async def serve() -> None:
        seen.append(signal.getsignal(signal.SIGHUP))

    supervisor = Supervisor(FLEET, None, lambda text: None)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        await _until_signal(serve(), supervisor, Console(quiet=True))
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        await _until_signal(serve(), supervisor, Console(quiet=True))
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().remove_signal_handler(number)
        signal.signal(signal.SIGHUP, before)
    assert seen[0] == signal.SIG_IGN
    assert seen[1] not in (signal.SIG_IGN, signal.SIG_DFL)
