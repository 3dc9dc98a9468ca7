"""A service that cannot start fails the test that waits for it, at once and with its own words."""

from __future__ import annotations

from pathlib import Path

import pytest
from running_gateway import Gateway, running_gateway, running_workers
from stack import running_stack


async def test_of_a_worker(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="exit status 2: error: --num-blocks: "):
        async with running_stack(1, 1, "--num-blocks=0", logs=tmp_path):
            pass


async def test_of_a_gateway(tmp_path: Path) -> None:
    gateway = Gateway("--policy=nonesuch", log=tmp_path / "log")
    async with running_workers() as workers:
        with pytest.raises(AssertionError, match="exit status 1: error: --policy: "):
            await gateway.start(*(worker.address for worker in workers))


async def test_of_a_gateways_worker() -> None:
    with pytest.raises(AssertionError, match="exit status 1: what it said was captured"):
        async with running_gateway("mock:nothing"):
            pass
