"""The limits of control groups, in files like those of a system's."""

import resource
from pathlib import Path

import pytest

from tandem.process import host


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(host, "CGROUPS", tmp_path)
    monkeypatch.setattr(host, "OWN_CGROUPS", tmp_path / "own")
    return tmp_path


def write(groups: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = groups / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")


@pytest.mark.parametrize(
    ("files", "memory", "quota"),
    [
        ({"own": "0::/"}, None, None),
        ({"own": "0::/", "memory.max": "max", "cpu.max": "max 100000"}, None, None),
        ({"own": "0::/", "memory.max": "4096", "cpu.max": "150000 100000"}, 4096, 1.5),
        # The lowest of all around this process, wherever it stands.
        (
            {
                "own": "0::/a/b",
                "a/b/memory.max": "max",
                "a/memory.max": "512",
                "memory.max": "1024",
                "a/b/cpu.max": "50000 100000",
                "cpu.max": "200000 100000",
            },
            512,
            0.5,
        ),
        # In a container the path is the host's, and only the root is there.
        (
            {
                "own": "4:memory:/docker/x\n2:cpu,cpuacct:/docker/x",
                "memory/memory.limit_in_bytes": "2048",
                "cpu/cpu.cfs_quota_us": "300000",
                "cpu/cpu.cfs_period_us": "100000",
            },
            2048,
            3.0,
        ),
        (
            {
                "own": "2:cpu,cpuacct:/",
                "cpu/cpu.cfs_quota_us": "-1",
                "cpu/cpu.cfs_period_us": "100000",
            },
            None,
            None,
        ),
        ({}, None, None),
    ],
)
def test_limits(
    groups: Path, files: dict[str, str], memory: int | None, quota: float | None
) -> None:
    write(groups, files)
    assert host.memory_limit_bytes() == memory
    assert host.cpu_quota() == quota


def test_a_container_is_a_process_own_if_it_is_the_first_there(
    groups: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(groups, {"own": "0::/", "memory.max": "4096"})
    assert host.container_limit_bytes() is None
    monkeypatch.setattr(host.os, "getpid", lambda: 1)
    assert host.container_limit_bytes() == 4096


def test_memory_is_what_the_group_allows(groups: Path) -> None:
    write(groups, {"own": "0::/"})
    installed = host.memory_bytes()
    write(groups, {"memory.max": "4096"})
    assert host.memory_bytes() == 4096
    write(groups, {"memory.max": str(2**62)})
    assert host.memory_bytes() == installed


@pytest.mark.parametrize(
    ("soft", "hard", "allowed", "raised"),
    [
        (1024, 4096, 4096, True),
        (1024, 2**20, host.MAX_OPEN_FILES, True),
        (1024, resource.RLIM_INFINITY, host.MAX_OPEN_FILES, True),
        (4096, 4096, 4096, False),
        (2**20, 2**20, 2**20, False),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, host.MAX_OPEN_FILES, False),
    ],
)
def test_as_many_files_may_be_open_as_are_allowed(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, allowed: int, raised: bool
) -> None:
    limits: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda which: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda which, limit: limits.append(limit))
    assert host.allowed_open_files() == allowed
    assert limits == []
    assert host.raise_open_files() == allowed
    assert limits == ([(allowed, hard)] if raised else [])
