"""`tandem up` as a process of its own."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil

from tandem.bench.ports import free_port

DEADLINE_S = 120
READY = "Tandem is ready"


def wait_until(is_true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not is_true():
        assert time.monotonic() < deadline, f"still not: {what}"
        time.sleep(0.05)


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class Up:
    """A running `tandem up`."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.folder = folder
        self.http_port, self.grpc_port, port_base = (free_port() for _ in range(3))
        self.url = f"http://127.0.0.1:{self.http_port}"
        self.output = folder / "output"
        command = [sys.executable, "-m", "tandem.cli", "up", "--device", "mock:zero"]
        command += ["--model", "mock", "--num-blocks", "64", "--log-dir", str(folder / "logs")]
        command += ["--http-port", str(self.http_port), "--grpc-port", str(self.grpc_port)]
        command += ["--port-base", str(port_base), *arguments]
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(command, stdout=output, stderr=output)
        self.children: set[psutil.Process] = set()

    def wait_until_ready(self) -> None:
        wait_until(self._is_ready, "ready")
        self.children.update(psutil.Process(self.process.pid).children())

    def child(self, name: str) -> psutil.Process:
        """The gateway, or the worker of a role, once it runs."""
        modules = {name, f"{name}_service"}
        found: list[psutil.Process] = []

        def is_there() -> bool:
            children = psutil.Process(self.process.pid).children()
            self.children.update(children)
            found.extend(each for each in children if modules & set(each.cmdline()))
            return bool(found)

        wait_until(is_there, f"the {name} runs")
        return found[0]

    def complete(self) -> httpx.Response:
        return httpx.post(
            f"{self.url}/v1/completions",
            json={"model": "default", "prompt": "hello", "max_tokens": 4},
            timeout=DEADLINE_S,
        )

    def workers(self) -> set[str]:
        """Those that have joined."""
        metrics = httpx.get(f"{self.url}/metrics", timeout=DEADLINE_S).text
        return set(re.findall(r'^tandem_worker_draining{.*worker="([^"]+)"', metrics, re.M))

    def said(self) -> str:
        return self.output.read_text()

    def has_orphans(self) -> bool:
        return any(is_alive(each) for each in self.children)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for child in self.children:
            if child.is_running():
                child.kill()

    def _is_ready(self) -> bool:
        assert self.process.poll() is None, self.said()
        return READY in self.said()


@contextmanager
def running_up(folder: Path, *arguments: str) -> Iterator[Up]:
    """One that is ready."""
    up = Up(folder, *arguments)
    try:
        up.wait_until_ready()
        yield up
    finally:
        up.close()
