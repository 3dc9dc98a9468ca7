"""Makes `tests/support`, and the packages of `benchmarks`, importable; lets properties take their
time, which says nothing but how busy the machine is."""

import sys
from pathlib import Path

from hypothesis import settings

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "support"), str(HERE.parent / "benchmarks")]
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

import service_processes  # noqa: E402 - found since then

service_processes.fork_services()
