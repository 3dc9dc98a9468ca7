"""How much memory a worker on a CPU may count on."""

from __future__ import annotations

import os
from pathlib import Path

# Where a container sees its own limit: the second and the first version of control groups.
LIMIT_FILES = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


def machine_memory_bytes(limit_files: tuple[Path, ...] = LIMIT_FILES) -> int:
    """The machine's memory, or the container's limit if that is less."""
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([physical, *(limit for file in limit_files if (limit := _read(file)))])


def _read(file: Path) -> int | None:
    """None if there is no limit; the first version writes that as a very large number."""
    try:
        text = file.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None
