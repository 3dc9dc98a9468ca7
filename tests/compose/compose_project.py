"""A compose project of the repository's own files, under a name of its own."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import docker
import httpx
from container_base import ROOT, Base
from docker.models.containers import Container

from tandem.bench.ports import free_port

SERVICES = ("gateway", "prefill", "decode")
PLAIN = ("docker-compose.yml",)
WITH_TLS = (*PLAIN, "docker-compose.tls.yml")
DEADLINE_S = 300
ANSWER_S = 120
MOCK = {"TANDEM_MODEL": "mock", "TANDEM_DEVICE": "mock:zero"}


class NoCompose(Exception):
    """There is no compose command."""


def compose_command() -> list[str]:
    """`docker compose`, or `docker-compose`. Raises `NoCompose`."""
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]):
            version = subprocess.run([*command, "version"], capture_output=True, check=False)
            if version.returncode == 0:
                return command
    raise NoCompose("neither `docker compose` nor `docker-compose` is there")


def image_of(service: str) -> str:
    """Not the names of the compose file, which may be in use."""
    return f"tandem-test-{service}"


def wait_until(is_true: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not is_true():
        assert time.monotonic() < deadline, f"still not: {what}"
        time.sleep(0.1)  # containers: there is no event to wait for


class Project:
    """`compose` commands, and what the project's containers and its gateway say."""

    def __init__(
        self,
        client: docker.DockerClient,
        folder: Path,
        base: Base,
        files: Sequence[str] = PLAIN,
    ) -> None:
        self.client = client
        self.name = f"tandem-test-{secrets.token_hex(4)}"
        self._override = folder / f"{self.name}.json"
        # JSON is YAML. pip in a container, which fetches the model, is set up as in the build.
        services: dict[str, Any] = {
            each: {"image": image_of(each), "environment": base.pip} for each in SERVICES
        }
        if files is WITH_TLS:
            services["certs"] = {"image": image_of("gateway")}
        self._override.write_text(json.dumps({"services": services}))
        self._files = [*files, str(self._override)]
        http_port, grpc_port = free_port(), free_port()
        self._environment = {
            "PYTHON_IMAGE": base.image,
            "PIP_ARGS": base.pip_args,
            "TANDEM_HTTP_PORT": str(http_port),
            "TANDEM_GRPC_PORT": str(grpc_port),
        }
        self.url = f"http://127.0.0.1:{http_port}"

    def compose(self, *arguments: str, **environment: str) -> None:
        self._environment |= environment
        command = compose_command()
        for file in self._files:
            command += ["-f", file]
        ran = subprocess.run(
            [*command, "-p", self.name, *arguments],
            cwd=ROOT,
            env={**os.environ, **self._environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
        assert ran.returncode == 0, ran.stdout[-4000:]

    def up(self, *arguments: str, **environment: str) -> None:
        self.compose("up", "-d", "--no-build", *arguments, **environment)
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        wait_until(self.is_ready, "ready")

    def is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/ready", timeout=ANSWER_S).status_code == 200
        except httpx.TransportError:
            return False

    def complete(self, **fields: Any) -> dict[str, Any]:
        """As clients do: who is told when to come again comes then. Containers that start on a
        small machine leave the gateway little of it."""
        body = {"model": "default", "prompt": "hello", "max_tokens": 4, **fields}
        deadline = time.monotonic() + ANSWER_S
        while True:
            response = httpx.post(f"{self.url}/v1/completions", json=body, timeout=ANSWER_S)
            again_s = response.headers.get("retry-after")
            if again_s is None or time.monotonic() > deadline:
                break
            time.sleep(float(again_s))
        assert response.status_code == 200, response.text
        return dict(response.json())

    def containers(self, service: str | None = None) -> list[Container]:
        labels = [f"com.docker.compose.project={self.name}"]
        if service:
            labels.append(f"com.docker.compose.service={service}")
        return list(self.client.containers.list(all=True, filters={"label": labels}))

    def what_is_left(self) -> list[str]:
        """Names of what the engine has of the project."""
        label = {"label": f"com.docker.compose.project={self.name}"}
        return [
            *(each.name for each in self.client.containers.list(all=True, filters=label)),
            *(each.name for each in self.client.networks.list(filters=label)),
            *(each.name for each in self.client.volumes.list(filters=label)),
        ]

    def logs(self) -> str:
        return "\n".join(
            f"{each.name} {each.status}\n{each.logs(tail=40).decode(errors='replace')}"
            for each in self.containers()
        )


@contextmanager
def project(
    client: docker.DockerClient, folder: Path, base: Base, files: Sequence[str] = PLAIN
) -> Iterator[Project]:
    """A project that is gone afterwards; its containers' logs are printed if the test fails."""
    made = Project(client, folder, base, files)
    try:
        yield made
    except BaseException:
        print(made.logs())
        raise
    finally:
        made.compose("down", "--volumes", "--timeout", "10")


def kill(client: docker.DockerClient, container: Container) -> None:
    """Kill a container's process as a crash would: after `docker kill`, which counts as a wish of
    the operator's, no restart policy holds. From a container: the engine may run elsewhere."""
    container.reload()
    client.containers.run(
        image_of("gateway"),
        entrypoint=["python3", "-c", f"import os; os.kill({container.attrs['State']['Pid']}, 9)"],
        pid_mode="host",
        user="root",
        remove=True,
    )
