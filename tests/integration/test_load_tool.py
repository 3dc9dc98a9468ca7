"""The load tool and the way servers are started for it, against `tandem up` on mock GPUs."""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from up import is_alive, wait_until

from tandem.bench.answer import Answer
from tandem.bench.closed_loop import run_workload, warm_up
from tandem.bench.completion_stream import Endpoint, complete
from tandem.bench.server import CannotStart, ServerSpec, running, with_port
from tandem.bench.summary import Summary
from tandem.bench.workload import WORKLOADS, LongPrompts

WORKLOAD = replace(WORKLOADS["D"], seconds=0.5, long=LongPrompts(300, 4, 0.2), token_ids=range(256))


def mock_arm(folder: Path, *arguments: str) -> ServerSpec:
    command = (
        *(sys.executable, "-m", "tandem.cli", "up", "--device", "mock:zero", "--model", "mock"),
        *("--num-blocks", "512", "--http-port", "{port}", "--grpc-port", "{port+1}"),
        *("--port-base", "{port+2}", "--log-dir", str(folder / "logs"), *arguments),
    )
    return ServerSpec("mock", command, ready_path="/ready")


async def test_all_streams_have_exactly_the_tokens_that_were_asked_for(tmp_path: Path) -> None:
    async with running(mock_arm(tmp_path), tmp_path) as server:
        processes = psutil.Process(server.pid).children(recursive=True)
        endpoint = Endpoint("127.0.0.1", server.port)

        async def ask(answer: Answer) -> None:
            await complete(endpoint, answer)

        await warm_up(ask, WORKLOAD, 0)
        run = await run_workload(ask, WORKLOAD, 0)
        assert server.pss_bytes() > 2**20
    assert not any(each.is_running() for each in processes)
    made = Summary.of(run, WORKLOAD, "mock", 0)
    assert made.problems == []
    assert {each.num_tokens for each in run.answers} == {WORKLOAD.num_output}
    assert [each.num_tokens for each in run.long_answers] == [4, 4]
    assert len(made.itl) <= made.num_tokens


async def test_a_server_that_ends_at_once_is_told_with_its_own_words(tmp_path: Path) -> None:
    with pytest.raises(CannotStart, match="no model 'nowhere'"):
        async with running(mock_arm(tmp_path, "--model", "nowhere"), tmp_path):
            pass


async def test_a_server_that_does_not_get_ready_is_ended(tmp_path: Path) -> None:
    sleeper = ServerSpec("slow", ("sleep", "60"), ready_path="/health", start_timeout_s=0.2)
    with pytest.raises(CannotStart, match="not ready"):
        async with running(sleeper, tmp_path):
            pass
    mine = psutil.Process().children()
    assert not any(each.name() == "sleep" for each in mine)


# Runs a server until it is ended itself.
KEEPER = """
import asyncio, signal, sys
from pathlib import Path
from tandem.bench.server import ServerSpec, cancel_when_told_to_stop, running

async def main():
    cancel_when_told_to_stop()
    logs, *command = sys.argv[1:]
    async with running(ServerSpec("mock", tuple(command), ready_path="/ready"), Path(logs)):
        print("ready", flush=True)
        await asyncio.Event().wait()

# Whoever runs the tests by nohup has it ignored.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
asyncio.run(main())
"""


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGKILL])
def test_a_fleet_ends_with_whoever_started_it(tmp_path: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-c", KEEPER, str(tmp_path), *mock_arm(tmp_path).command]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as keeper:
        assert keeper.stdout and keeper.stdout.readline() == b"ready\n"
        processes = psutil.Process(keeper.pid).children(recursive=True)
        assert len(processes) > 2
        keeper.send_signal(number)
        keeper.wait()
        try:
            wait_until(lambda: not any(map(is_alive, processes)), "all ended")
        finally:
            for each in filter(is_alive, processes):
                each.kill()


def test_ports_are_filled_in() -> None:
    assert with_port(("--a={port}", "{port+2}", "x"), 100) == ["--a=100", "102", "x"]
