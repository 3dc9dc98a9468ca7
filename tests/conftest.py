"""Makes `tests/support`, and the packages of `benchmarks`, importable; lets properties take their
time, which says nothing but how busy the machine is."""

import sys
from pathlib import Path

import pytest
from hypothesis import settings

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "support"), str(HERE.parent / "benchmarks")]
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

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
