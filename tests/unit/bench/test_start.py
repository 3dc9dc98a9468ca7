"""What a start's benchmark reads out of logs and of the system."""

from __future__ import annotations

from start import logged_s, pool_bytes

LOG = """\
1970-01-01T00:01:40.250000Z [info     ] loaded                         device=cpu:0
1970-01-01T00:01:41.000000Z [info     ] serving gRPC                   address=127.0.0.1:1
1970-01-01T00:01:42.000000Z [info     ] serving gRPC                   address=127.0.0.1:2
"""
SMAPS = """\
7f0000000000-7f0000400000 rw-p 00000000 00:00 0
Size:               4096 kB
Rss:                 512 kB
7f1000000000-7f1000800000 r--p 00000000 08:01 99                         /lib/large.so
Rss:                8192 kB
7f2000000000-7f2000600000 rw-p 00000000 00:00 0
Size:               6144 kB
Rss:                1024 kB
VmFlags: rd wr mr mw me ac sd
7f3000000000-7f3000100000 rw-p 00000000 00:00 0
Rss:                 100 kB
7ffc00000000-7ffc00900000 rw-p 00000000 00:00 0                          [stack]
Rss:                  50 kB
"""


def test_an_event_is_as_late_as_its_first_line() -> None:
    assert logged_s(LOG, "loaded", began=100.0) == 0.25
    assert logged_s(LOG, "serving gRPC", began=100.0) == 1
    assert logged_s(LOG, "stopping", began=100.0) is None


def test_the_pool_is_the_largest_mapping_without_a_file() -> None:
    assert pool_bytes(SMAPS) == 1024 * 1024
