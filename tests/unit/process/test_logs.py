"""The log costs a process nothing but lines."""

from __future__ import annotations

import errno
import io
import json
from collections.abc import Iterator
from contextlib import redirect_stderr

import pytest
import structlog

from tandem.process.logs import LogFormat, configure_logging


class Disk(io.StringIO):
    """A stream on a disk that may be full: then what is written is lost as it is flushed."""

    is_full = False

    def flush(self) -> None:
        if self.is_full:
            self.seek(0)
            self.truncate()
            raise OSError(errno.ENOSPC, "No space left on device")

    def lines(self) -> list[str]:
        return self.getvalue().splitlines()


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    before = structlog.get_config()
    yield
    structlog.configure(**before)


def logging_to(disk: Disk, log_format: LogFormat = "json") -> None:
    with redirect_stderr(disk):
        configure_logging("debug", log_format)


def test_a_full_disk_costs_lines_and_the_next_one_says_how_many() -> None:
    disk = Disk()
    logging_to(disk)
    log = structlog.get_logger("a")
    disk.is_full = True
    log.debug("lost")
    log.info("lost")
    structlog.get_logger("another").bind(worker="d").warning("lost")
    try:
        raise KeyError("k")
    except KeyError:
        log.exception("lost")
    disk.is_full = False
    log.error("there is room again")
    log.critical("and still")
    told, after = map(json.loads, disk.lines())
    assert (told["event"], told["missing_lines"]) == ("there is room again", 4)
    assert after["event"] == "and still"
    assert "missing_lines" not in after


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_a_stream_that_is_closed_costs_lines_alone(log_format: LogFormat) -> None:
    disk = Disk()
    logging_to(disk, log_format)
    log = structlog.get_logger()
    log.info("written")
    assert "written" in disk.getvalue()
    disk.close()
    for level in ("debug", "info", "warning", "error", "critical"):
        getattr(log, level)("nobody reads this")


def test_what_goes_wrong_otherwise_is_told() -> None:
    """Only the writing is forgiven."""
    logging_to(Disk())
    with pytest.raises(TypeError):
        structlog.get_logger().info("%d lines", "many")
