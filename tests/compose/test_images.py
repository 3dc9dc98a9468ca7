"""The images hold what they should, and nothing that they should not."""

from __future__ import annotations

import docker
import pytest
from compose_project import SERVICES, image_of
from container_base import Base

LOOK = """
import os
from importlib.util import find_spec
print(os.getuid(), find_spec("torch") is not None)
"""
HAS_COMPILER = """
import shutil
print(any(map(shutil.which, ("cc", "gcc", "g++", "clang"))))
"""
KERNELS = """
from tandem.native.library import best
print(best())
"""


def said(engine: docker.DockerClient, image: str, program: str) -> str:
    output = engine.containers.run(
        image, entrypoint=["python3", "-c", program], remove=True, read_only=True
    )
    return output.decode().strip()


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize("service", SERVICES)
def test_it_is_no_root_and_has_torch_only_in_workers(
    engine: docker.DockerClient, service: str
) -> None:
    assert said(engine, image_of(service), LOOK) == f"10001 {service != 'gateway'}"


@pytest.mark.parametrize("service", SERVICES)
def test_it_has_no_compiler_that_its_base_has_not(
    engine: docker.DockerClient, built: Base, service: str
) -> None:
    """The base that is made here has one, since what builds the kernels reaches no other."""
    if said(engine, built.image, HAS_COMPILER) == "True":
        pytest.skip("THE BASE HAS A COMPILER OF ITS OWN: that no other is added cannot be seen")
    assert said(engine, image_of(service), HAS_COMPILER) == "False"


@pytest.mark.usefixtures("built")
def test_a_worker_has_its_kernels(engine: docker.DockerClient) -> None:
    assert said(engine, image_of("decode"), KERNELS).startswith("kernels ")


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
