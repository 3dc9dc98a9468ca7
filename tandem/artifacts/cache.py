"""The user's cache of models."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tandem.artifacts.progress import ProgressCallback
from tandem.core.errors import ConfigError

SCRATCH_PREFIX = "scratch-"


def cache_dir() -> Path:
    """`$TANDEM_CACHE`, else `$XDG_CACHE_HOME/tandem`, else `~/.cache/tandem`. May not exist yet.
    Raises `ConfigError` for a user who has no home to have it in."""
    own, base = os.environ.get("TANDEM_CACHE"), os.environ.get("XDG_CACHE_HOME")
    try:
        return Path(own).expanduser() if own else Path(base or "~/.cache").expanduser() / "tandem"
    except RuntimeError:
        raise ConfigError("there is no home folder: set TANDEM_CACHE to a folder") from None


def models_dir() -> Path:
    """Where model folders lie, each `<name>/`. Raises `ConfigError` if that cannot be seen."""
    folder = cache_dir() / "models"
    try:
        # Not `exists`, which on newer Pythons takes what cannot be seen for what is not there.
        folder.stat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise ConfigError(
            f"cannot read the cache {cache_dir()} ({error.strerror}): set TANDEM_CACHE to another"
            " folder"
        ) from None
    return folder


def downloads_dir() -> Path:
    """Where downloads lie that are under way, or were interrupted, each `<name>/`."""
    return cache_dir() / "downloads"


def packed_dir() -> Path:
    """Where weights lie that are packed for a processor's kernels, each model's in a folder."""
    return cache_dir() / "packed"


@contextmanager
def locked_cache(progress: ProgressCallback) -> Iterator[Path]:
    """Be the only process that adds to the cache, after waiting for any other that does.

    Yields a scratch folder on the cache's file system, which goes when the context ends. The lock
    goes with its process, so one that died holds nobody up; what it left behind is removed.
    Raises `ConfigError` where that cannot be had; of what fails in the context it says nothing.
    """
    root = cache_dir()
    with _locked(root / ".lock", progress):
        _remove_leftovers(root)
        with writing_to_cache():
            scratch = tempfile.TemporaryDirectory(prefix=SCRATCH_PREFIX, dir=root)
        with scratch as name:
            yield Path(name)


@contextmanager
def locked_download(name: str, progress: ProgressCallback) -> Iterator[Path]:
    """Be the only process that downloads `name`, after waiting for any other that does.

    Yields the path of a folder for it, which may not exist yet, and which stays if the context
    fails, so that the next one can go on. Raises `ConfigError` as `locked_cache` does.
    """
    with _locked(downloads_dir() / f"{name}.lock", progress):
        yield downloads_dir() / name


@contextmanager
def writing_to_cache() -> Iterator[None]:
    """What fails in the context is the cache's: a `ConfigError` that names it. What is read from
    elsewhere meanwhile must say so itself."""
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"cannot write to the cache {cache_dir()} ({error.strerror or error}): free some space"
            " or set TANDEM_CACHE to another folder"
        ) from error


@contextmanager
def _locked(path: Path, progress: ProgressCallback) -> Iterator[None]:
    with writing_to_cache():
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.open("w")
    with lock:
        with writing_to_cache():
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                progress("waiting for the cache", 0, None)
                fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def put_in_place(folder: Path, destination: Path) -> None:
    """Make a folder of the cache's file system the one at `destination`, in one step, and not
    before its files would outlive a power failure. What was there goes; who has it open keeps it.
    For who has the lock."""
    for path in (*folder.iterdir(), folder):
        _sync(path)
    destination.parent.mkdir(parents=True, exist_ok=True)
    replaced = folder.with_name("replaced")
    with suppress(FileNotFoundError):
        destination.rename(replaced)
    folder.rename(destination)
    shutil.rmtree(replaced, ignore_errors=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_leftovers(root: Path) -> None:
    for folder in root.glob(f"{SCRATCH_PREFIX}*"):
        shutil.rmtree(folder, ignore_errors=True)
