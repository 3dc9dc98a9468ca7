"""A container engine to test against: the one that is there, or one of our own."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import docker
from docker.errors import DockerException

START_S = 60
STOP_S = 30


class NoEngine(Exception):
    """There is no engine, and none could be started; says why."""


@contextmanager
def running_engine(folder: Path) -> Iterator[docker.DockerClient]:
    """The engine that DOCKER_HOST or the default socket leads to; if there is none, one that lives
    in `folder` for as long as the context. `DOCKER_HOST` leads to it meanwhile. Raises `NoEngine`.
    """
    try:
        client = docker.from_env()
        client.ping()
    except DockerException as error:
        with _own_engine(folder, str(error)) as client:
            yield client
        return
    yield client
    client.close()


@contextmanager
def _own_engine(folder: Path, why: str) -> Iterator[docker.DockerClient]:
    if os.geteuid() != 0 or not shutil.which("dockerd"):
        raise NoEngine(
            f"no container engine answers ({why}), and one of our own takes root and `dockerd`"
            " (Debian: apt-get install docker.io docker-compose debootstrap)"
        )
    host = f"unix://{folder}/docker.sock"
    command = ["dockerd", "--host", host, "--data-root", f"{folder}/data"]
    command += ["--exec-root", f"{folder}/exec", "--pidfile", f"{folder}/pid"]
    with (folder / "dockerd.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    before = os.environ.get("DOCKER_HOST")
    os.environ["DOCKER_HOST"] = host
    try:
        client = _until_it_answers(process, host, folder / "dockerd.log")
        yield client
        client.close()
    finally:
        os.environ.pop("DOCKER_HOST")
        if before is not None:
            os.environ["DOCKER_HOST"] = before
        process.terminate()
        process.wait(STOP_S)
        shutil.rmtree(folder / "data", ignore_errors=True)


def _until_it_answers(
    process: subprocess.Popen[bytes], host: str, log: Path
) -> docker.DockerClient:
    deadline = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            client = docker.DockerClient(host)
            client.ping()
        except DockerException:
            time.sleep(0.1)  # another process: there is no event to wait for
        else:
            return client
    last = log.read_text(errors="replace").splitlines()[-3:]
    raise NoEngine("dockerd did not start: " + " | ".join(last))
