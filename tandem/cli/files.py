"""Files that the user names, to be written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tandem.core.errors import ConfigError


def check_file(path: Path) -> None:
    """Whether it could be written: its folder is there then. Raises `ConfigError` if not."""
    with writing(path):
        is_new = not path.exists()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("ab").close()
        if is_new:
            path.unlink()


def write_file(path: Path, content: bytes) -> None:
    """Raises `ConfigError`."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raises `ConfigError` for what the system has against it."""
    try:
        yield
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from None
