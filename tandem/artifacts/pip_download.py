"""Fetching a wheel with pip, from whatever index the user's pip is set up for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tandem.artifacts.progress import DOWNLOADING, ProgressCallback
from tandem.core.errors import ConfigError

POLL_S = 0.25


def pip_download(requirement: str, folder: Path, size: int, progress: ProgressCallback) -> Path:
    """Download the one wheel of `requirement`, about `size` bytes, without its dependencies.

    Returns its path in `folder`, which is to be empty. Raises `ConfigError` with pip's last word.
    """
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    command += ["--no-input", "--disable-pip-version-check", "--progress-bar", "off"]
    command += ["--dest", str(folder), requirement]
    # With its temporary files in the folder as well, the folder's growth is pip's progress.
    environment = {**os.environ, "TMPDIR": str(folder)}
    output = _run(command, environment, folder, size, progress)
    wheels = list(folder.glob("*.whl"))
    if len(wheels) != 1:
        raise _failed(requirement, output)
    progress(DOWNLOADING, size, size)
    return wheels[0]


def _run(
    command: list[str],
    environment: dict[str, str],
    folder: Path,
    size: int,
    progress: ProgressCallback,
) -> str:
    """What pip wrote. Its success is judged by what it left in the folder."""
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            while True:
                progress(DOWNLOADING, min(_size_of(folder), size), size)
                try:
                    return process.communicate(timeout=POLL_S)[0]
                except subprocess.TimeoutExpired:
                    continue
        finally:
            process.kill()


def _size_of(folder: Path) -> int:
    total = 0
    for directory, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(directory, name)).st_size
            except FileNotFoundError:
                continue  # pip moves its files while we look
    return total


def _failed(requirement: str, output: str) -> ConfigError:
    lines = [line for line in output.splitlines() if line.strip()]
    last = lines[-1].strip() if lines else "it said nothing"
    return ConfigError(
        f"pip could not download {requirement}: {last}. Check the network and pip's index, or give"
        " a model's folder or .gguf file instead",
        param="model",
    )
