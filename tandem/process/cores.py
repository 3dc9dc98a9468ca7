"""Which cores a worker computes on, and who goes first there."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from tandem.core.device import CpuDevice

CPUS = Path("/sys/devices/system/cpu")
PROC = Path("/proc")
MAX_NICENESS = 19
# Who is not root may set a group's niceness once in a tenth of a second, all together.
GROUP_INTERVAL_S = 0.12
NUM_GROUP_TRIES = 10


def usable_cores() -> list[int]:
    """The cores that this process may use, threads of one physical core next to each other, so that
    to cut the list in pieces parts few of them."""
    if not hasattr(os, "sched_getaffinity"):
        return list(range(os.cpu_count() or 1))
    return sorted(os.sched_getaffinity(0), key=lambda core: (*_physical_core(core), core))


def split_cores(cores: Sequence[int], num_workers: int) -> list[tuple[int, ...]]:
    """Each worker's cores: the same number for all, the first ones take what is left over. Where
    there are fewer cores than workers, several share a core."""
    if len(cores) < num_workers:
        return [(cores[index % len(cores)],) for index in range(num_workers)]
    size, rest = divmod(len(cores), num_workers)
    starts = [index * size + min(index, rest) for index in range(num_workers + 1)]
    return [tuple(sorted(cores[start:stop])) for start, stop in pairwise(starts)]


def cores_of(device: CpuDevice, usable: Sequence[int]) -> list[int]:
    """Those of the usable cores that a device has."""
    if device.part:
        index, count = device.part
        return list(split_cores(usable, count)[index - 1])
    return [core for core in usable if core in device.cores] if device.cores else list(usable)


def bind_process(pid: int, cores: Sequence[int]) -> None:
    """Keep a process that has just been started on these cores, where the system can."""
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(pid, cores)


async def let_others_first(pid: int, niceness: int) -> None:
    """Add to the niceness (see nice(2)) of a process that has just been started, where the system
    can. Linux may schedule sessions as groups, and then goes by that of the group."""
    if niceness and hasattr(os, "setpriority"):
        inherited = os.getpriority(os.PRIO_PROCESS, pid)
        os.setpriority(os.PRIO_PROCESS, pid, min(inherited + niceness, MAX_NICENESS))
        for _ in range(NUM_GROUP_TRIES):
            try:
                (PROC / str(pid) / "autogroup").write_text(str(niceness))
            except BlockingIOError:
                await asyncio.sleep(GROUP_INTERVAL_S)
            except OSError:
                return
            else:
                return


def _physical_core(core: int) -> tuple[int, int]:
    topology = CPUS / f"cpu{core}" / "topology"
    try:
        package = int((topology / "physical_package_id").read_text())
        return package, int((topology / "core_id").read_text())
    except (OSError, ValueError):
        return 0, core
