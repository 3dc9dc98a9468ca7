"""The images hold what they should, and nothing that they should not."""

from __future__ import annotations

import docker
import pytest
from compose_project import SERVICES, image_of
from container_base import Base

LOOK = """
import os, shutil, sys
from importlib.util import find_spec
print(os.getuid(), find_spec("torch") is not None, bool(shutil.which("cc") or shutil.which("gcc")))
"""


def said(engine: docker.DockerClient, service: str, program: str) -> str:
    output = engine.containers.run(
        image_of(service), entrypoint=["python3", "-c", program], remove=True, read_only=True
    )
    return output.decode().strip()


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize("service", SERVICES)
def test_it_is_no_root_has_no_compiler_and_torch_only_in_workers(
    engine: docker.DockerClient, service: str
) -> None:
    assert said(engine, service, LOOK) == f"10001 {service != 'gateway'} False"


def test_the_workers_share_all_and_the_gateway_most(
    engine: docker.DockerClient, built: Base
) -> None:
    images = {service: engine.images.get(image_of(service)) for service in SERVICES}
    layers = {service: image.attrs["RootFS"]["Layers"] for service, image in images.items()}
    base = engine.images.get(built.image)
    print(f"\n{built.image}: {base.attrs['Size'] / 1e6:.0f} MB")
    for service, image in images.items():
        print(f"{service}: {image.attrs['Size'] / 1e6:.0f} MB")
    assert layers["prefill"] == layers["decode"]
    # All but Tandem itself, which comes after torch in a worker's image.
    assert layers["gateway"][:-2] == layers["prefill"][: len(layers["gateway"]) - 2]
    added = images["gateway"].attrs["Size"] - base.attrs["Size"]
    assert added < 300e6
