"""Servers for other people's clients: `tandem up`, on mock GPUs and with the real default model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from openai import OpenAI
from up import Up, running_up

ROOM = ("--num-blocks", "2048")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.clients)


@pytest.fixture(scope="session")
def mock_up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """Answers with letters and digits that mean nothing, at once."""
    with running_up(tmp_path_factory.mktemp("mock"), *ROOM) as up:
        yield up


@pytest.fixture(scope="session")
def real_up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """Answers as SmolLM2-135M does, on CPU cores."""
    folder = tmp_path_factory.mktemp("real")
    with running_up(folder, *ROOM, "--device", "cpu", "--model", "default") as up:
        yield up


@pytest.fixture(params=["mock", pytest.param("real", marks=pytest.mark.model)])
def base_url(request: pytest.FixtureRequest) -> str:
    """Of one server after the other."""
    return url_of(request.getfixturevalue(f"{request.param}_up"))


@pytest.fixture
def mock_url(mock_up: Up) -> str:
    return url_of(mock_up)


@pytest.fixture
def real_url(real_up: Up) -> str:
    return url_of(real_up)


@pytest.fixture
def client(base_url: str) -> Iterator[OpenAI]:
    """OpenAI's own, as its users have it, but that it does not try again."""
    with OpenAI(base_url=base_url, api_key="none", max_retries=0, timeout=60) as client:
        yield client


def url_of(up: Up) -> str:
    return f"{up.url}/v1"
