"""The supervisor over real processes that are no services."""

import asyncio
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tandem.cli import supervisor
from tandem.cli.crash_limit import CrashLimit
from tandem.cli.fleet import Fleet, Service
from tandem.cli.service_process import ServiceProcess
from tandem.cli.supervisor import Supervisor
from tandem.core.errors import Unavailable

# Says its id, and that it can be told to stop.
SLEEP = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
ON_STOP = """
import os, signal, sys
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, {handler})
"""
STUBBORN = ON_STOP.format(handler="signal.SIG_IGN") + SLEEP
# Says by which signal it ends. Not by `print`, which it may be in.
ORDERLY = ON_STOP.format(handler="lambda *it: (os.write(1, b'%d\\n' % it[0]), sys.exit())") + SLEEP
# As a service does: waits for what is under way, here until there is a file, if it may.
DRAINING = """
import asyncio, os
from tandem.process.lifetime import StopSignals

async def finish():
    print("asked", flush=True)
    while not os.path.exists({over!r}):
        await asyncio.sleep(0.01)
    # Whoever has asked again by then is heard.
    await asyncio.sleep(0.01)
    print("finished", flush=True)

async def serve():
    signals = StopSignals()
    print(os.getpid(), flush=True)
    await signals.asked.wait()
    await signals.wait_for(finish(), 60)

asyncio.run(serve())
"""


def service(name: str, code: str) -> Service:
    return Service(name, (sys.executable, "-c", code), port=0)


def fleet(worker: str, gateway: str = SLEEP) -> Fleet:
    return Fleet((service("decode-0", worker),), service("gateway", gateway))


async def wait_for_pids(log: Path, count: int = 1) -> list[int]:
    """The ids that a service's runs have said."""
    while len(pids := read_pids(log)) < count:
        await asyncio.sleep(0.01)
    return pids


def read_pids(log: Path) -> list[int]:
    text = log.read_text() if log.exists() else ""
    return [int(line) for line in text.splitlines() if line.isdecimal()]


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


class Run:
    """A supervisor's run, and what it said."""

    def __init__(self, fleet: Fleet, log_dir: Path) -> None:
        self.log_dir = log_dir
        self.warnings: list[str] = []
        self._ready = asyncio.Event()
        self.announced = asyncio.Event()
        self.supervisor = Supervisor(fleet, log_dir, self.warnings.append)
        self.task = asyncio.create_task(
            self.supervisor.run(self._until_ready(), self.announced.set)
        )

    async def pid(self, name: str, run: int = 1) -> int:
        return (await wait_for_pids(self.log_dir / f"{name}.log", run))[run - 1]

    async def begin_to_serve(self) -> None:
        """It is ready, and says so."""
        self._ready.set()
        await self.announced.wait()

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])

    async def _until_ready(self) -> None:
        await self._ready.wait()


async def test_all_processes_end_with_the_run(tmp_path: Path) -> None:
    run = Run(fleet(SLEEP), tmp_path)
    pids = [await run.pid("decode-0"), await run.pid("gateway")]
    await run.begin_to_serve()
    await run.stop()
    assert not any(is_running(pid) for pid in pids)
    assert run.warnings == []


async def test_a_process_that_does_not_listen_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tandem.cli.supervisor.STOP_S", 0.2)
    monkeypatch.setattr("tandem.cli.supervisor.GATEWAY_STOP_S", 0.1)
    run = Run(fleet(STUBBORN, STUBBORN), tmp_path)
    pids = [await run.pid("decode-0"), await run.pid("gateway")]
    await run.stop()
    assert not any(is_running(pid) for pid in pids)


async def test_kill_ends_a_stop_that_takes_long(tmp_path: Path) -> None:
    run = Run(fleet(STUBBORN, STUBBORN), tmp_path)
    pids = [await run.pid("decode-0"), await run.pid("gateway")]
    run.task.cancel()
    await asyncio.sleep(0)
    run.supervisor.kill()
    await asyncio.wait([run.task])
    assert not any(is_running(pid) for pid in pids)


async def test_a_service_that_cannot_start_ends_the_run_with_its_own_error(tmp_path: Path) -> None:
    run = Run(fleet("import sys; sys.exit('error: there is no cuda:9')"), tmp_path)
    with pytest.raises(
        Unavailable, match=r"^decode-0 could not start, exit status 1: there is no cuda:9$"
    ):
        await run.task
    assert not run.announced.is_set()


async def test_the_last_words_of_a_crash_are_shown(tmp_path: Path) -> None:
    run = Run(fleet("print('loading'); 1 / 0"), tmp_path)
    with pytest.raises(Unavailable) as raised:
        await run.task
    assert "  | loading" in raised.value.message
    assert "  | ZeroDivisionError: division by zero" in raised.value.message
    assert f"  log: {tmp_path / 'decode-0.log'}" in raised.value.message


async def test_a_service_that_dies_is_started_again(tmp_path: Path) -> None:
    run = Run(fleet(SLEEP), tmp_path)
    first = await run.pid("decode-0")
    await run.begin_to_serve()
    os.kill(first, signal.SIGKILL)
    second = await run.pid("decode-0", run=2)
    assert is_running(second)
    assert run.warnings[0].startswith("decode-0 died, killed by SIGKILL")
    assert run.warnings[-1] == "starting decode-0 again"
    await run.stop()
    assert not is_running(second)


@pytest.mark.parametrize("drains", [True, False])
async def test_what_drains_is_asked_to_and_what_does_not_to_be_quick(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drains: bool
) -> None:
    # However slow this machine is: who is not done by then is killed.
    monkeypatch.setattr(supervisor, "GATEWAY_STOP_S", 60.0)
    monkeypatch.setattr(supervisor, "STOP_S", 60.0)
    run = Run(fleet(ORDERLY, ORDERLY), tmp_path)
    for name in ("decode-0", "gateway"):
        await run.pid(name)
    run.supervisor.drains = drains
    await run.stop()
    expected = signal.SIGTERM if drains else signal.SIGINT
    for name in ("decode-0", "gateway"):
        assert read_pids(tmp_path / f"{name}.log")[1:] == [expected]


@pytest.mark.parametrize("name", ["decode-0", "gateway"])
async def test_who_ends_the_supervisor_and_its_children_cuts_nothing(
    tmp_path: Path, name: str
) -> None:
    """As systemd does."""
    over = {each: tmp_path / f"{each} is through" for each in ("decode-0", "gateway")}
    run = Run(fleet(*(DRAINING.format(over=str(path)) for path in over.values())), tmp_path)
    pids = {each: await run.pid(each) for each in over}
    for other in over.keys() - {name}:
        over[other].touch()
    run.supervisor.drains = True
    run.task.cancel()
    log = tmp_path / f"{name}.log"
    while "asked" not in log.read_text():
        await asyncio.sleep(0.01)
    os.kill(pids[name], signal.SIGTERM)
    over[name].touch()
    await asyncio.wait([run.task])
    assert "finished" in log.read_text()


async def test_a_service_that_was_asked_to_end_is_started_again(tmp_path: Path) -> None:
    run = Run(fleet(ORDERLY), tmp_path)
    first = await run.pid("decode-0")
    await run.begin_to_serve()
    os.kill(first, signal.SIGTERM)
    # The second is what it says at its end.
    assert is_running(await run.pid("decode-0", run=3))
    assert run.warnings == ["decode-0 has ended", "starting decode-0 again"]
    await run.stop()


async def test_a_crash_loop_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tandem.cli.crash_limit.FIRST_DELAY_S", 0.01)
    go = tmp_path / "go"
    run = Run(
        fleet(f"import os, time\nwhile not os.path.exists({str(go)!r}): time.sleep(0.01)"), tmp_path
    )
    await run.begin_to_serve()
    go.touch()
    with pytest.raises(Unavailable, match="decode-0 died 5 times within 60 s"):
        await run.task
    starts = [each for each in run.warnings if each.startswith("starting decode-0 again")]
    assert len(starts) == 4
    assert run.warnings[-1].endswith(": stopping, once what is under way has ended")
    assert run.supervisor.drains
    assert not is_running(await run.pid("gateway"))


async def test_a_crash_loop_of_one_of_several_ends_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tandem.cli.crash_limit.FIRST_DELAY_S", 0.01)
    go = tmp_path / "go"
    crashing = f"import os, time\nwhile not os.path.exists({str(go)!r}): time.sleep(0.01)"
    workers = service("decode-0", crashing), service("decode-1", SLEEP)
    run = Run(Fleet(workers, service("gateway", SLEEP)), tmp_path)
    await run.begin_to_serve()
    go.touch()
    while sum("the others go on without it" in each for each in run.warnings) < 2:
        await asyncio.sleep(0.01)
    for name in ("decode-1", "gateway"):
        assert is_running(await run.pid(name))
    await run.stop()


async def test_a_crash_loop_of_all_of_a_role_ends_the_run() -> None:
    workers = [service(f"decode-{number}", SLEEP) for number in range(2)]
    other = service("prefill-0", SLEEP)
    warnings: list[str] = []
    supervisor = Supervisor(
        Fleet((other, *workers), service("gateway", SLEEP)), None, warnings.append
    )
    # One is tried again for ever, and the other may die once in a while.
    for _ in range(20):
        supervisor._delay_s(workers[0])
    for _ in range(4):
        supervisor._delay_s(workers[1])
    assert not supervisor.drains
    assert set(warnings) == {"decode-0 died 5 times within 60 s: the others go on without it"}
    with pytest.raises(Unavailable, match="decode-1 died 5 times within 60 s"):
        supervisor._delay_s(workers[1])
    assert supervisor.drains


async def test_what_cannot_be_started_again_is_tried_once_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(fleet(SLEEP), tmp_path)
    first = await run.pid("decode-0")
    await run.begin_to_serve()
    start, failures = ServiceProcess.start, [OSError(24, "Too many open files")]

    async def start_or_fail(service: Service, log: Path | None) -> ServiceProcess:
        if failures:
            raise failures.pop()
        return await start(service, log)

    monkeypatch.setattr("tandem.cli.crash_limit.FIRST_DELAY_S", 0.01)
    monkeypatch.setattr(ServiceProcess, "start", start_or_fail)
    os.kill(first, signal.SIGKILL)
    assert is_running(await run.pid("decode-0", run=2))
    assert run.warnings[-2].startswith("decode-0 could not be started: [Errno 24]")
    await run.stop()


async def test_a_log_that_is_gone_has_no_last_words(tmp_path: Path) -> None:
    log = tmp_path / "gateway.log"
    process = await ServiceProcess.start(service("gateway", "print('words')"), log)
    await process.wait()
    log.unlink()
    assert "its log cannot be read" in process.obituary()


async def test_what_is_one_processs_alone_is_not_handed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TANDEM_METRICS_PORT", "TANDEM_ADVERTISE", "TANDEM_DTYPE"):
        monkeypatch.setenv(name, "only here")
    code = "import os; print([each for each in os.environ if os.environ[each] == 'only here'])"
    log = tmp_path / "decode-0.log"
    await (await ServiceProcess.start(service("decode-0", code), log)).wait()
    assert log.read_text() == "['TANDEM_DTYPE']\n"


async def test_a_readiness_that_fails_ends_the_run(tmp_path: Path) -> None:
    async def never() -> None:
        raise Unavailable("not ready after 1 s")

    supervisor = Supervisor(fleet(SLEEP), tmp_path, lambda text: None)
    with pytest.raises(Unavailable, match="not ready after 1 s"):
        await supervisor.run(never(), lambda: None)


async def test_only_the_end_of_a_long_log_is_read(tmp_path: Path) -> None:
    log = tmp_path / "gateway.log"
    code = "print('\\n'.join(map(str, range(200_000))))"
    process = await ServiceProcess.start(service("gateway", code), log)
    await process.wait()
    lines = process.obituary().splitlines()
    assert lines[0] == "exit status 0"
    assert lines[-2] == "  | 199999"
    assert len(lines) < 15


def group_niceness(pid: int) -> int | None:
    """That of its session; None where the system has none."""
    group = Path(f"/proc/{pid}/autogroup")
    return int(group.read_text().split()[-1]) if group.exists() else None


async def test_a_service_lets_others_go_first(tmp_path: Path) -> None:
    log = tmp_path / "log"
    yielding = replace(service("prefill-0", SLEEP), niceness=3)
    process = await ServiceProcess.start(yielding, log)
    await process.place()
    (pid,) = await wait_for_pids(log)
    assert os.getpriority(os.PRIO_PROCESS, pid) == os.getpriority(os.PRIO_PROCESS, 0) + 3
    assert group_niceness(pid) in (3, None)
    process.kill()
    await process.wait()


async def test_a_service_whose_cores_are_gone_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(pid: int, cores: object) -> None:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "sched_setaffinity", refuse)
    log = tmp_path / "log"
    bound = replace(service("decode-0", "print('words')"), cores=(0,))
    process = await ServiceProcess.start(bound, log)
    await process.place()
    await process.wait()
    assert log.read_text() == "words\n"


async def test_a_run_that_ends_while_a_service_is_placed_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pids: list[int] = []
    is_placing = asyncio.Event()

    async def wait_for_the_kernel(pid: int, niceness: int) -> None:
        pids.append(pid)
        is_placing.set()
        await asyncio.Event().wait()

    monkeypatch.setattr("tandem.cli.service_process.let_others_first", wait_for_the_kernel)
    run = Run(fleet(SLEEP), tmp_path)
    await is_placing.wait()
    await run.stop()
    assert not any(is_running(pid) for pid in pids)


def test_a_service_that_keeps_crashing_is_started_later_and_later() -> None:
    limit, now_s, delays = CrashLimit(), 0.0, []
    for number in range(1, 40):
        delays.append(limit.crashed(now_s))
        assert limit.is_loop(now_s) == (number >= 5)
        now_s += delays[-1] + 5.0
    assert delays[:7] == [0, 1, 2, 4, 8, 16, 30]
    assert set(delays[7:]) == {30}
    assert limit.is_loop(now_s)
    assert not limit.is_loop(now_s + 60.0)


def test_crashes_that_are_long_ago_count_no_more() -> None:
    limit = CrashLimit()
    assert [limit.crashed(now) for now in (0.0, 50.0, 105.0, 300.0)] == [0, 1, 1, 0]
    assert not limit.is_loop(300.0)
