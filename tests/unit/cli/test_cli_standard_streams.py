"""What becomes of a command whose stdin or stdout is of no use."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tandem.artifacts.resolve import MOCK_FOLDER

FULL = Path("/dev/full")
TANDEM = shlex.join([sys.executable, "-m", "tandem.cli"])
# With a buffer all comes to light at the end only.
BUFFERS = pytest.mark.parametrize("unbuffered", ["", "1"])


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TANDEM_CACHE", str(tmp_path))


def run(command: str, unbuffered: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {TANDEM} {command}"],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
    )


@pytest.mark.skipif(not FULL.exists(), reason="THIS SYSTEM HAS NO FULL DISK TO TRY")
@BUFFERS
@pytest.mark.parametrize("command", ["--help", "--version", "models", "models --json"])
def test_a_full_disk_is_one_line(command: str, unbuffered: str) -> None:
    done = run(f"{command} > {FULL}", unbuffered)
    assert done.stderr == "error: cannot write: No space left on device\n"
    assert done.returncode == 1


@BUFFERS
@pytest.mark.parametrize("closed", [">&-", "<&- >&-"])
@pytest.mark.parametrize("command", ["--version", "models"])
def test_a_closed_output_is_one_line(command: str, closed: str, unbuffered: str) -> None:
    done = run(f"{command} {closed}", unbuffered)
    assert done.stderr == "error: cannot write: Bad file descriptor\n"
    assert done.returncode == 1


@BUFFERS
def test_nobody_who_reads_is_no_words(unbuffered: str) -> None:
    done = run("models | true", unbuffered)
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 1)


def test_a_closed_input_has_ended() -> None:
    done = run("top --url http://127.0.0.1:1 <&-", "")
    assert done.stderr.startswith("error: no gateway answers")
    assert done.stderr.count("\n") == 1


def test_who_is_told_of_no_progress_does_without() -> None:
    done = run("pull mock 2>&-", "")
    assert (done.stdout, done.returncode) == (f"{MOCK_FOLDER}\n", 0)
