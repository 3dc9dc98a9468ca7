"""`tandem up` around its fleet: signals, logs."""

import asyncio
import gc
import io
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from tandem.artifacts.progress import terminal_progress
from tandem.bench.ports import free_port
from tandem.cli.app import app, commands
from tandem.cli.fleet import Fleet, Service
from tandem.cli.fleet_commands import FleetFlags
from tandem.cli.service_process import ServiceProcess
from tandem.cli.supervisor import Supervisor
from tandem.cli.up import LastingConsole, _new_logs, _starting, _until_signal, default_logs
from tandem.core.errors import ConfigError, Unavailable
from tandem.process.stop_signals import SIGNALS

FLEET = Fleet((Service("decode-0", ("true",), port=1),), Service("gateway", ("true",), port=2))

# Says that it was told to end, and does not.
STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, lambda *it: print("told", flush=True))
print("begun", flush=True)
time.sleep(600)
"""


class GoneStream(io.StringIO):
    """A terminal that was closed, or a pipe that nobody reads."""

    def __init__(self, error: OSError) -> None:
        super().__init__()
        self._error = error

    def write(self, text: str) -> int:
        raise self._error


@pytest.fixture
def signals_as_before() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    # Whoever runs the tests by nohup has it ignored.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_the_logs_of_the_run_before_are_kept(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    for words in ("first", "second"):
        _new_logs(folder, FLEET)
        assert (folder / "gateway.log").read_text() == ""
        (folder / "gateway.log").write_text(words)
    assert (folder / "gateway.log.1").read_text() == "first"


def test_two_at_a_time_do_not_write_to_the_same_logs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TANDEM_CACHE", str(tmp_path))
    flags = [FleetFlags(host=host) for host in ("127.0.0.1", "127.0.0.2", "::1")]
    folders = [default_logs(each.settings()) for each in [*flags, FleetFlags(http_port=8001)]]
    names = ["8000", "127.0.0.2-8000", "::1-8000", "8001"]
    assert folders == [tmp_path / "logs" / name for name in names]


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


@pytest.mark.usefixtures("signals_as_before")
@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), BrokenPipeError(32, "Broken")])
async def test_who_has_no_terminal_any_more_still_ends(error: OSError) -> None:
    async def serve() -> None:
        os.kill(os.getpid(), signal.SIGHUP)
        await asyncio.sleep(60)
        raise AssertionError

    supervisor = Supervisor(FLEET, None, lambda text: None)
    await _until_signal(serve(), supervisor, LastingConsole(file=GoneStream(error)))


@pytest.mark.parametrize("is_terminal", [True, False])
def test_who_cannot_say_that_it_starts_still_does(is_terminal: bool) -> None:
    full = GoneStream(OSError(28, "No space left on device"))
    console = LastingConsole(file=full, force_terminal=is_terminal)
    with _starting(FLEET, console):
        pass


@pytest.mark.usefixtures("signals_as_before")
async def test_a_signal_while_it_ends_by_itself_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tandem.cli.crash_limit.MAX_CRASHES", 1)
    log = tmp_path / "gateway.log"

    async def until(words: str) -> None:
        while not log.exists() or words not in log.read_text():
            await asyncio.sleep(0.01)

    go = tmp_path / "go"
    crashing = ("sh", "-c", f"until test -e '{go}'; do sleep 0.01; done")
    worker = Service("decode-0", crashing, port=1)
    fleet = Fleet((worker,), Service("gateway", (sys.executable, "-c", STUBBORN), port=2))
    supervisor = Supervisor(fleet, tmp_path, lambda text: None)
    serving = supervisor.run(until("begun"), go.touch)
    ending = asyncio.create_task(_until_signal(serving, supervisor, Console(quiet=True)))
    await until("told")
    (pid,) = (each._process.pid for each in supervisor._processes.values() if not each.has_ended)
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.sleep(0.1)
    assert not ending.done()
    os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(Unavailable, match="decode-0 died"):
        await ending
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.usefixtures("signals_as_before")
async def test_what_is_stopped_is_not_said_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    console = Console(file=terminal, force_terminal=True)

    async def never() -> None:
        with _starting(FLEET, console):
            await asyncio.sleep(0.2)
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.sleep(60)

    async def stop() -> None:
        assert "starting 2 processes" in terminal.getvalue()
        terminal.truncate(0)
        await asyncio.sleep(0.3)
        assert "starting" not in terminal.getvalue()

    supervisor = Supervisor(FLEET, None, lambda text: None)
    monkeypatch.setattr(supervisor, "_stop", stop)
    monkeypatch.setattr(supervisor, "_keep_running", lambda service: asyncio.sleep(60))
    monkeypatch.setattr(supervisor, "_start", lambda service: asyncio.sleep(0))
    serving = supervisor.run(never(), lambda: None)
    await _until_signal(serving, supervisor, console)


@pytest.mark.usefixtures("signals_as_before")
def test_that_a_process_cannot_be_started_is_all_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    def no_more(*_: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setenv("TANDEM_CACHE", str(tmp_path))
    monkeypatch.setattr(ServiceProcess, "start", no_more)
    port = free_port()
    ports = ["--http-port", str(port), "--grpc-port", str(port + 1), "--port-base", str(port + 2)]
    up = ["up", "--model", "mock", "--device", "mock:h100", *ports]
    error = CliRunner().invoke(commands, up).exception
    assert isinstance(error, Unavailable)
    assert "could not be started: " in error.message
    # With all that it came through.
    del error
    gc.collect()
    assert [*recwarn] == []


def test_a_start_takes_some_time() -> None:
    result = CliRunner().invoke(commands, ["up", "--device", "mock:h100", "--start-timeout", "-5"])
    assert isinstance(result.exception, ConfigError)
    assert "--start-timeout is a number, more than 0" in result.exception.message


def test_two_servers_have_two_ports() -> None:
    flags = ["--device", "mock:h100", "--http-port", "24111", "--grpc-port", "24111"]
    result = CliRunner().invoke(commands, ["up", *flags])
    assert isinstance(result.exception, ConfigError)
    assert "--http-port and --grpc-port are both 24111" in result.exception.message


def test_ctrl_c_before_a_command_begins_shows_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(**_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setitem(app.__globals__, "commands", interrupted)
    with pytest.raises(SystemExit) as end:
        app()
    assert end.value.code == 130


def test_nor_while_the_command_is_imported() -> None:
    code = (
        "import sys\n"
        "class Interrupted:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'typer': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupted())\n"
        "from tandem.cli import app\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_a_command_has_no_lines_of_grpcs_among_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRPC_VERBOSITY", "whatever the tests have")
    monkeypatch.delenv("GRPC_VERBOSITY")
    monkeypatch.setitem(app.__globals__, "commands", lambda **_: None)
    app()
    assert os.environ["GRPC_VERBOSITY"] == "NONE"


def test_what_a_terminal_cannot_show_is_a_question_mark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "models" / "clair-\u4e08"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{")
    monkeypatch.setenv("TANDEM_CACHE", str(tmp_path))
    stdout = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    monkeypatch.setattr(sys, "stdout", stdout)
    monkeypatch.setattr(sys, "argv", ["tandem", "models"])
    with pytest.raises(SystemExit) as end:
        app()
    stdout.seek(0)
    assert (end.value.code, "clair-? (" in stdout.read()) == (0, True)


def test_a_model_is_fetched_though_nobody_can_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", GoneStream(BrokenPipeError(32, "Broken")))
    with terminal_progress("default") as progress:
        progress("checking", 0, None)
