"""Makes `tests/support`, and the packages of `benchmarks`, importable; lets properties take their
time, which says nothing but how busy the machine is; gives logged errors plain tracebacks, and
threads that compute a way to wait that leaves the cores to other tests."""

import os
import sys
from pathlib import Path

import pytest
from hypothesis import settings
from structlog.dev import ConsoleRenderer, plain_traceback

# OpenMP's threads, torch's and the kernels', wait for one another by spinning: for whole slices of
# time where each core has a test. It looks when it is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "support"), str(HERE.parent / "benchmarks")]
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
# The usual ones, with all that each frame knows, take longer than most tests.
ConsoleRenderer.get_active().exception_formatter = plain_traceback

import service_processes  # noqa: E402 - found since then

service_processes.fork_services()


def pytest_collection_finish(session: pytest.Session) -> None:
    """What all forked services begin with is no test's time: on a busy machine it would take all
    that the first test has. What they write is captured as if that test had begun it."""
    is_run = not session.config.option.collectonly
    if is_run and "stack" in sys.modules:  # which whoever has them imports
        capturing = session.config.pluginmanager.getplugin("capturemanager")
        if capturing:
            capturing.resume_global_capture()
        service_processes.start_fork_server()
        if capturing:
            capturing.suspend_global_capture()
