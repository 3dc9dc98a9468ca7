"""`tandem bench serve` and `compare` from their command lines: mock GPUs, and bad servers."""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
from typer.testing import CliRunner
from up import Up, running_up

from tandem.bench import load_run, metrics_scraper, open_loop
from tandem.bench.load_options import LoadOptions
from tandem.bench.load_plan import LoadPlan, plan_load
from tandem.bench.load_run import LoadSettings, run_load
from tandem.bench.report.load_report import LoadReport, read_report
from tandem.bench.report.wording import stopped_text
from tandem.bench.target import Asking, parse_target
from tandem.bench.workload import TOKEN_IDS
from tandem.cli.app import commands
from tandem.core.errors import TandemError

LENGTHS = ("--prompt-tokens", "30:60", "--output-tokens", "6")
BOUNDS = ("--goodput", "ttft:60000,tpot:60000")


def bench(*arguments: str) -> tuple[int, str]:
    """The command, in this process: its exit status, and all that it said."""
    result = CliRunner().invoke(commands, ["bench", *arguments])
    if isinstance(result.exception, TandemError):
        return 1, result.output + result.exception.message
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return result.exit_code, result.output


def serve(folder: Path, url: str, *arguments: str) -> tuple[int, str, LoadReport]:
    out = folder / "report.json"
    status, said = bench("serve", "--url", url, "--out", str(out), *arguments)
    assert out.exists(), said
    return status, said, read_report(out)


@pytest.fixture(scope="module")
def mock_up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    flags = ("--device", "mock:h100x5", "--num-blocks", "2048")
    with running_up(tmp_path_factory.mktemp("mock"), *flags) as up:
        yield up


@pytest.fixture
def http_url(mock_up: Up) -> str:
    return mock_up.url


def test_a_closed_loop_over_http(tmp_path: Path, http_url: str) -> None:
    page = tmp_path / "page.html"
    status, said, report = serve(
        tmp_path, http_url, *LENGTHS, *BOUNDS,
        *("--concurrency", "3", "--requests", "12", "--html", str(page)),
    )  # fmt: skip
    assert status == 0, said
    rows = report.requests
    assert (len(rows), report.figures.num_requests, report.figures.num_failed) == (12, 12, 0)
    assert all(row.measured and 30 <= row.num_prompt <= 60 for row in rows)
    assert {row.num_output for row in rows} == {6}
    assert report.figures.num_output_tokens == 72
    # All of the measured tokens came in the window.
    tokens = report.figures.output_tokens_per_s * report.window.seconds
    assert tokens == pytest.approx(72, rel=0.01)
    assert report.figures.goodput_share == 1
    assert {row.mode for row in rows} <= {"local", "disaggregated"}
    assert all(row.decode_worker for row in rows)
    assert report.target.model == "mock"
    server = report.server
    assert server
    assert [each.role for each in server.workers] == ["prefill", "decode"]
    assert server.stages.decode_ms
    assert server.holdups
    assert "12 of 12 requests" in said
    assert page.read_text().startswith("<!doctype html>")


def test_an_open_loop_over_grpc(tmp_path: Path, mock_up: Up) -> None:
    status, said, report = serve(
        tmp_path, f"grpc://127.0.0.1:{mock_up.grpc_port}", *LENGTHS,
        *("--rate", "40", "--warm-up", "0.2", "--seconds", "0.5"),
        *("--metrics", f"{mock_up.url}/metrics"),
    )  # fmt: skip
    assert status == 0, said
    rows = report.requests
    measured = [row for row in rows if row.measured]
    assert 0 < len(measured) < len(rows)
    assert all(200 <= row.due_ms <= 700 for row in measured)
    assert not any(row.problem for row in measured)
    assert {row.num_output for row in measured} == {6}
    assert all(row.decode_worker for row in measured)
    assert report.window.seconds == pytest.approx(0.5)
    assert report.server


@pytest.mark.parametrize("flags", [["--chat"], ["--text"], ["--text", "--no-ignore-eos"]])
def test_servers_that_take_no_token_ids(tmp_path: Path, http_url: str, flags: list[str]) -> None:
    status, said, report = serve(
        tmp_path, http_url, *flags, *("--prompt-tokens", "9", "--output-tokens", "5"),
        *("--requests", "4", "--rate", "inf"),
    )  # fmt: skip
    assert status == 0, said
    # The server's own count: the mock's tokens are letters.
    assert all(row.num_prompt > 9 and 1 <= row.num_output <= 5 for row in report.requests)
    assert report.load.arrivals == "at once"


def test_a_trace(tmp_path: Path, http_url: str) -> None:
    trace = tmp_path / "trace.jsonl"
    lines = [
        {"timestamp": at, "input_length": 64, "output_length": 4, "hash_ids": [7]}
        for at in (0, 100, 4000)
    ]
    trace.write_text("".join(json.dumps(line) + "\n" for line in lines))
    status, said, report = serve(
        tmp_path, http_url, "--trace", str(trace), "--speed", "2", "--concurrency", "0"
    )
    assert status == 0, said
    dues = [row.due_ms - report.requests[0].due_ms for row in report.requests]
    assert dues == pytest.approx([0, 50, 2000], abs=0.01)
    # All begin alike, and the last one finds that in a cache.
    assert report.requests[-1].num_cached


@pytest.mark.parametrize(("flags", "finds"), [((), False), (("--same-tokens",), True)])
def test_a_second_run_finds_no_prompt_cached_unless_that_is_wanted(
    tmp_path: Path, http_url: str, flags: tuple[str, ...], finds: bool
) -> None:
    load = ("--prompt-tokens", "150", "--output-tokens", "2", "--requests", "3", "--seed", "7")
    serve(tmp_path, http_url, *load, *flags)
    _, said, report = serve(tmp_path, http_url, *load, *flags)
    assert bool(report.figures.num_cached_tokens) is finds
    assert ("prompt tokens: 450, 0.0% cached" in said) is not finds, said


def test_long_prompts_beside_streams_are_not_measured(tmp_path: Path, http_url: str) -> None:
    status, said, report = serve(
        tmp_path, http_url, "--workload", "D", "--length-scale", "0.1", "--seconds", "1.6"
    )
    assert status == 0, said
    beside = [row for row in report.requests if row.num_prompt == 205]
    assert [row.measured for row in beside] == [False]
    assert {row.num_prompt for row in report.requests if row.measured} == {3}


def test_reports_are_compared(tmp_path: Path, http_url: str) -> None:
    for name in ("one", "other"):
        status, said = bench(
            "serve", "--url", http_url, *LENGTHS, "--requests", "8",
            *("--out", str(tmp_path / f"{name}.json")),
        )  # fmt: skip
        assert status == 0, said
    page = tmp_path / "page.html"
    files = (str(tmp_path / "one.json"), str(tmp_path / "other.json"))
    status, said = bench("--compare", *files, "--html", str(page))
    assert status == 0, said
    assert "TTFT p50" in said
    assert "other compared with one" in page.read_text()
    assert bench("compare", *files) == (0, said)


def test_reports_of_other_loads_are_not_compared(tmp_path: Path, http_url: str) -> None:
    files = []
    for seed in ("0", "1"):
        files.append(str(tmp_path / f"{seed}.json"))
        bench("serve", "--url", http_url, *LENGTHS, "--requests", "2", "--seed", seed,
                    "--out", files[-1])  # fmt: skip
    status, said = bench("compare", *files)
    assert status == 1
    assert "(--seed: 0 / 1)" in said
    assert "Traceback" not in said
    status, said = bench("compare", *files, "--anyway")
    assert status == 0, said
    assert "not the same load: --seed: 0 / 1" in said


# Servers that do not serve.

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
CHUNK = b'data: {"choices":[{"text":"x"}],"usage":{"prompt_tokens":3,"completion_tokens":%d}}\n\n'
BUSY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbusy"


def nothing() -> None:
    """What happens when an answer stalls, or metrics are asked for, if nothing is said."""


def bad_server(
    *behaviours: str,
    on_stall: Callable[[], None] = nothing,
    on_get: Callable[[], None] = nothing,
) -> AbstractContextManager[str]:
    """Each request is answered in the next one of some ways, round and round."""
    ways = itertools.cycle(behaviours)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if head.startswith(b"GET"):
            on_get()
            writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            writer.close()
            return
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        wanted = orjson.loads(await reader.readexactly(length))["max_tokens"]
        match next(ways):
            case "serve":
                writer.write(HEAD + b"".join(CHUNK % (n + 1) for n in range(wanted)))
                writer.write(b"data: [DONE]\n\n")
            case "refuse":
                writer.write(BUSY)
            case "stop early":
                writer.write(HEAD + CHUNK % 1)
            case "say too little":
                writer.write(HEAD + CHUNK % 1 + b"data: [DONE]\n\n")
            case "stall":
                writer.write(HEAD + CHUNK % 1)
                await writer.drain()
                on_stall()
                await reader.read()
        writer.close()

    return served_in_a_thread(answer)


@contextmanager
def served_in_a_thread(
    answer: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> Iterator[str]:
    """Gives the URL."""
    started = Future[str]()

    async def serve_until_told(told: asyncio.Event) -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        started.set_result(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        async with server:
            await told.wait()

    loop = asyncio.new_event_loop()
    told = asyncio.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(serve_until_told(told),))
    thread.start()
    try:
        yield started.result()
    finally:
        loop.call_soon_threadsafe(told.set)
        thread.join()
        loop.close()


FLAGS = ("--model", "m", *LENGTHS)


def test_every_problem_is_counted_and_nothing_hangs(tmp_path: Path) -> None:
    ways = ("serve", "refuse", "stop early", "say too little", "stall")
    with bad_server(*ways) as url:
        status, said, report = serve(
            tmp_path, url, *FLAGS, *("--requests", "10", "--concurrency", "5", "--timeout", "1"),
            "--no-probe",
        )  # fmt: skip
    assert status == 1
    assert (report.figures.num_requests, report.figures.num_failed) == (10, 8)
    assert sorted(report.problems()) == [
        ("1 tokens came, 6 were asked for", 2),
        ("not over after 1 s", 2),
        ("status 503: busy", 2),
        ("the connection ended early (closed)", 2),
    ]
    assert report.figures.ttft_ms and report.figures.ttft_ms.count == 2
    assert report.server is None
    assert "2 of 10 requests" in said
    assert "problem, 2 times: not over after 1 s" in said


@pytest.mark.parametrize("protocol", ["http", "grpc"])
@pytest.mark.parametrize("model", [(), ("--model", "m")])
def test_nobody_there_is_told_as_by_the_other_commands(
    protocol: str, model: tuple[str, ...]
) -> None:
    with bad_server("serve") as url:
        pass
    gone = url.replace("http", protocol)
    status, said = bench("serve", "--url", gone, "--requests", "5", *model)
    assert status == 1
    assert "start one with `tandem up`, or name one with --url" in said
    assert "Traceback" not in said


def test_a_server_that_names_no_model_is_not_nobody() -> None:
    with bad_server("serve") as url:
        status, said = bench("serve", "--url", url, "--requests", "5")
    assert (status, "404" in said, "tandem up" in said) == (1, True, False), said


def test_a_server_that_does_not_serve_gets_one_request() -> None:
    with bad_server("refuse") as url:
        status, said = bench("serve", "--url", url, *FLAGS, "--requests", "5")
    assert (status, "does not serve: status 503" in said) == (1, True), said


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_a_server_that_is_gone_ends_a_closed_loop(
    protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(open_loop, "PAUSE_S", 0.0)
    with bad_server("serve") as url:
        pass
    plan = plan_load(LoadOptions(concurrency=2, num_requests=1000))
    gone = parse_target(url.replace("http", protocol))
    settings = LoadSettings(plan, gone, Asking("m"), TOKEN_IDS, has_probe=False)
    report = asyncio.run(run_load(settings, None))
    assert report.stopped
    assert stopped_text(report).endswith(": the last 10 requests found nobody to serve them")
    assert report.figures.num_failed == len(report.requests) < 12


LIMITED = """
import resource, sys
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (40, {hard}))
from tandem.cli.app import app
app()
"""


@pytest.mark.parametrize(("hard", "is_own"), [("40", True), ("hard", False)])
def test_a_load_tool_without_descriptors_blames_itself(
    tmp_path: Path, hard: str, is_own: bool
) -> None:
    out = tmp_path / "report.json"
    # Only the first one is over, so that all others are under way at a time.
    with bad_server("serve", *["stall"] * 60) as url:
        process = subprocess.run(
            [
                *(sys.executable, "-c", LIMITED.format(hard=hard), "bench", "serve", *FLAGS),
                *(
                    "--url",
                    url,
                    "--rate",
                    "inf",
                    "--requests",
                    "60",
                    "--timeout",
                    "2",
                    "--out",
                    str(out),
                ),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
    assert out.exists(), process.stderr
    report = read_report(out)
    assert (report.tool.num_unsent > 0) is is_own, process.stdout
    assert ("it had no connection for" in report.limit.text) is is_own
    assert ("the load tool cannot connect" in process.stdout) is is_own


def test_what_is_done_before_the_first_request_makes_it_not_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The load's clock runs, and for the last time, once all of it is done."""
    done: list[str] = []

    def noted(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def calling(*arguments: Any) -> Any:
            done.append(name)
            return call(*arguments)

        return calling

    monkeypatch.setattr(LoadPlan, "prompts", noted("prompts", LoadPlan.prompts))
    monkeypatch.setattr(gc, "collect", noted("collected", gc.collect))
    monkeypatch.setattr(load_run._Run, "_begin", noted("begun", load_run._Run._begin))
    with bad_server("serve") as url:
        _, _, report = serve(
            tmp_path, url, *FLAGS, *("--requests", "3", "--rate", "100", "--no-probe")
        )
    assert done[-3:] == ["prompts", "collected", "begun"]
    assert report.requests[0].due_ms < 100


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_a_load_that_is_stopped_tells_what_it_has(tmp_path: Path) -> None:
    with bad_server("serve", "serve", "stall", on_stall=interrupt) as url:
        status, said, report = serve(
            tmp_path, url, *FLAGS, *("--requests", "3", "--concurrency", "1", "--no-probe")
        )
    assert status == 1
    assert report.stopped
    assert (report.figures.num_requests, report.figures.num_failed) == (2, 0)
    assert "stopped before its time" in said


def test_a_load_that_is_stopped_twice_tells_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It is asked for its models, its metrics, and those again at the end: then the second time.
    monkeypatch.setattr(metrics_scraper, "INTERVAL_S", 3600.0)
    gets = iter((nothing, nothing, interrupt))

    def on_get() -> None:
        next(gets, nothing)()

    with bad_server("serve", "stall", on_stall=interrupt, on_get=on_get) as url:
        _, said, report = serve(
            tmp_path, url, *FLAGS, *("--requests", "3", "--concurrency", "1", "--no-probe")
        )
    assert next(gets, None) is None
    assert report.stopped
    assert "1 of 1 requests" in said


def test_an_error_is_a_line_and_a_status() -> None:
    process = subprocess.run(
        [sys.executable, "-m", "tandem.cli", "bench", "serve", "--url", "nowhere"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 1
    assert (
        process.stderr == "error: no URL: 'nowhere'; write http://HOST:PORT or grpc://HOST:PORT\n"
    )
