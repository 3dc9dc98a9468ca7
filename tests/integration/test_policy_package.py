"""The example of a policy is a package that installs, and that a gateway finds by name."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHOW_ORDER = """
from gateway.policies import WaitingPrompt, queue_policy
policy = queue_policy("least-slack")
prompts = {
    "idle": WaitingPrompt(0, 1),
    "urgent": WaitingPrompt(1, 1, 0, 9),
    "long": WaitingPrompt(2, 8, 0, 10),
}
print(*sorted(prompts, key=lambda name: policy.rank(prompts[name])))
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the example is installed, without touching this environment or the network."""
    folder = tmp_path_factory.mktemp("policy")
    source = shutil.copytree(ROOT / "examples" / "policy", folder / "source")
    offline = ("--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check")
    command = [sys.executable, "-m", "pip", "install", "--quiet", *offline]
    subprocess.run([*command, "--target", folder / "site", source], check=True)
    return folder / "site"


def run(site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(site)}
    return subprocess.run(
        [sys.executable, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_it_is_found_by_name_and_orders_prompts(site: Path) -> None:
    result = run(site, "-c", SHOW_ORDER)
    assert result.stdout.split() == ["long", "urgent", "idle"], result.stderr


def test_a_gateway_that_does_not_find_a_policy_names_those_that_there_are(site: Path) -> None:
    result = run(site, "-m", "gateway", "--model=mock", "--policy=nonesuch")
    assert result.returncode != 0
    last = result.stderr.strip().splitlines()[-1]
    assert "edf, fcfs, least-slack, priority, shortest-first" in last
