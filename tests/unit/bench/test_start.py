"""What a start's benchmark reads out of logs and of the system."""

from __future__ import annotations

from start import Memory, logged_s, memory_of

LOG = """\
1970-01-01T00:01:40.250000Z [info     ] loaded                         device=cpu:0
1970-01-01T00:01:41.000000Z [info     ] serving gRPC                   address=127.0.0.1:1
1970-01-01T00:01:42.000000Z [info     ] serving gRPC                   address=127.0.0.1:2
"""
SMAPS = """\
7e0000000000-7e0000400000 rw-p 00000000 00:00 0
Size:               4096 kB
Rss:                 512 kB
Pss:                 512 kB
7e1000000000-7e1000800000 r--p 00000000 08:01 99                         /lib/large one.so
Rss:                8192 kB
Pss:                2048 kB
7e2000000000-7e2080000000 rw-p 00000000 00:00 0
Size:            2097152 kB
Rss:                1024 kB
Pss:                1024 kB
VmFlags: rd wr mr mw me ac sd
7e3000000000-7e3040000000 rw-p 00000000 00:00 0
Rss:                 100 kB
Pss:                 100 kB
7e4000000000-7e4100000000 r--p 00001000 08:01 98                         /c/none-avx2-1.weights
Rss:                 400 kB
Pss:                 200 kB
7ffc00000000-7ffcf0900000 rw-p 00000000 00:00 0                          [stack]
Rss:                  50 kB
Pss:                  50 kB
"""


def test_an_event_is_as_late_as_its_first_line() -> None:
    assert logged_s(LOG, "loaded", began=100.0) == 0.25
    assert logged_s(LOG, "serving gRPC", began=100.0) == 1
    assert logged_s(LOG, "stopping", began=100.0) is None


def test_memory_is_split() -> None:
    """The pool is the largest mapping without a file."""
    kib = 1024
    memory = memory_of(SMAPS)
    assert memory == Memory(
        pss=3934 * kib, mapped=400 * kib, weights=200 * kib, pool=1024 * kib, files=2048 * kib
    )
    assert (memory.overhead, memory.own) == (2710 * kib, 662 * kib)


def test_who_has_no_pool_has_none_found() -> None:
    assert memory_of("\n".join(SMAPS.splitlines()[:7])).pool == 0
