"""What of this machine a process may use: a container is often given less than there is."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")
MAX_OPEN_FILES = 65536
# Of a gateway: those that are not HTTP clients'.
RESERVED_FILES = 256


def raise_open_files() -> int:
    """Let this process have as many files and connections open as it is allowed to, within reason;
    how many those are. What a shell gives a process is often 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = allowed_open_files()
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return allowed


def allowed_open_files() -> int:
    """How many those will be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_OPEN_FILES)
    return MAX_OPEN_FILES if soft == resource.RLIM_INFINITY else max(soft, wanted)


def memory_bytes() -> int:
    """The memory of this machine, or its control group's limit where that is lower."""
    installed = installed_bytes()
    return min(installed, memory_limit_bytes() or installed)


def installed_bytes() -> int:
    """The memory of this machine."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def container_limit_bytes() -> int | None:
    """The limit of a container that was made for this process, which is its first; None for others,
    who share what limit they have with processes that nobody knows here."""
    return memory_limit_bytes() if os.getpid() == 1 else None


def memory_limit_bytes() -> int | None:
    """The lowest limit of the control groups that this process is in; None if there is none."""
    limits = [
        *_numbers(_read_all("", "memory.max")),
        *_numbers(_read_all("memory", "memory.limit_in_bytes")),
    ]
    return min(limits, default=None)


def cpu_quota() -> float | None:
    """CPUs' worth of time that the control groups allow; None if they do not limit it."""
    quotas = [
        *_quotas(_read_all("", "cpu.max")),
        *_quotas(
            f"{quota} {period}"
            for quota, period in zip(
                _read_all("cpu", "cpu.cfs_quota_us"),
                _read_all("cpu", "cpu.cfs_period_us"),
                strict=False,
            )
        ),
    ]
    return min(quotas, default=None)


def _read_all(controller: str, file: str) -> Iterator[str]:
    """The contents of `file` in this process's control group and those around it. `controller`:
    of version 1, where each has a tree of its own; empty for version 2."""
    own = _own_group(controller)
    if own is None:
        return
    # Inside a container the path may be the host's, of which only the root is seen: missing folders
    # are passed over.
    for group in (own, *own.parents):
        try:
            yield (CGROUPS / controller / group.relative_to("/") / file).read_text().strip()
        except (OSError, ValueError):
            continue


def _own_group(controller: str) -> PurePosixPath | None:
    try:
        lines = OWN_CGROUPS.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            return PurePosixPath(path)
    return None


def _numbers(texts: Iterator[str]) -> Iterator[int]:
    """Those that are numbers: without a limit it says `max`."""
    return (int(text) for text in texts if text.isdecimal())


def _quotas(texts: Iterator[str]) -> Iterator[float]:
    """`150000 100000` is one and a half; without a limit the first word is `max` or -1."""
    for text in texts:
        quota, _, period = text.partition(" ")
        if quota.isdecimal() and period.isdecimal() and int(period):
            yield int(quota) / int(period)
