"""One engine, one base image and one build for all tests; skipped, and loudly, without them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import docker
import pytest
from compose_project import WITH_TLS, NoCompose, Project, compose_command, project
from container_base import Base, NoBase, base_image
from container_engine import NoEngine, running_engine


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slow)
            item.add_marker(pytest.mark.compose)
            item.add_marker(pytest.mark.timeout(1800))


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[docker.DockerClient]:
    try:
        compose_command()
        with running_engine(tmp_path_factory.mktemp("engine")) as client:
            yield client
    except (NoCompose, NoEngine) as error:
        _skip(error)


@pytest.fixture(scope="session")
def built(engine: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Base]:
    """The base of the images, once these are built."""
    folder = tmp_path_factory.mktemp("base")
    try:
        with base_image(engine, folder) as base:
            Project(engine, folder, base).compose("build")
            yield base
    except NoBase as error:
        _skip(error)


@pytest.fixture
def tandem(engine: docker.DockerClient, built: Base, tmp_path: Path) -> Iterator[Project]:
    """A project that nothing was started of."""
    with project(engine, tmp_path, built) as made:
        yield made


@pytest.fixture
def tandem_with_tls(engine: docker.DockerClient, built: Base, tmp_path: Path) -> Iterator[Project]:
    """The same, with mutual TLS between the services."""
    with project(engine, tmp_path, built, WITH_TLS) as made:
        yield made


def _skip(why: Exception) -> NoReturn:
    warnings.warn(f"containers are NOT tested: {why}", stacklevel=2)
    pytest.skip(str(why))
