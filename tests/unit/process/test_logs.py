"""The log costs a process nothing but lines."""

from __future__ import annotations

import errno
import io
import json
import logging
import warnings
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
    before, root = structlog.get_config(), logging.getLogger()
    handlers, level = root.handlers[:], root.level
    # pytest's own would be closed.
    root.handlers.clear()
    yield
    structlog.configure(**before)
    logging.captureWarnings(capture=False)
    root.handlers[:] = handlers
    root.setLevel(level)


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


def objects(disk: Disk) -> list[dict[str, object]]:
    return [json.loads(line) for line in disk.lines()]


def test_what_libraries_log_is_an_object_a_line_too() -> None:
    disk = Disk()
    logging_to(disk)
    logging.getLogger("uvicorn.error").error("two\nlines of %s", "somebody")
    try:
        raise KeyError("k")
    except KeyError:
        logging.getLogger("grpc").exception("failed")
    warnings.warn("old", DeprecationWarning, stacklevel=1)
    told, failed, warned = objects(disk)
    assert told.keys() == {"event", "level", "timestamp", "logger"}
    assert (told["event"], told["level"]) == ("two\nlines of somebody", "error")
    assert (failed["logger"], failed["event"]) == ("grpc", "failed")
    assert "KeyError: 'k'" in str(failed["exception"])
    assert (warned["logger"], warned["level"]) == ("py.warnings", "warning")
    assert "DeprecationWarning: old" in str(warned["event"])
    assert not str(warned["event"]).endswith("\n")


def test_libraries_are_heard_from_warnings_on() -> None:
    disk = Disk()
    logging_to(disk)
    logging.getLogger("httpx").info("somebody's words")
    logging.getLogger("httpx").debug("somebody's words")
    assert not disk.lines()


def test_an_export_that_fails_again_and_again_is_told_rarely() -> None:
    disk = Disk()
    logging_to(disk)
    exporter = logging.getLogger("opentelemetry.exporter.otlp.proto.grpc.exporter")
    for number in range(100):
        exporter.warning("failed to export, %d", number)
    logging.getLogger("asyncio").error("each")
    logging.getLogger("asyncio").error("each")
    events = [each["event"] for each in objects(disk)]
    assert events == ["failed to export, 0", "each", "each"]


def test_a_library_may_log_to_a_full_disk() -> None:
    disk = Disk()
    logging_to(disk)
    disk.is_full = True
    logging.getLogger("uvicorn.error").error("lost")
    disk.is_full = False
    logging.getLogger("uvicorn.error").error("there is room again")
    (told,) = objects(disk)
    assert (told["event"], told["missing_lines"]) == ("there is room again", 1)


def test_what_goes_wrong_otherwise_is_told() -> None:
    """Only the writing is forgiven."""
    logging_to(Disk())
    with pytest.raises(TypeError):
        structlog.get_logger().info("%d lines", "many")


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_no_stderr_at_all_costs_the_lines(
    monkeypatch: pytest.MonkeyPatch, log_format: LogFormat
) -> None:
    monkeypatch.setattr("sys.stderr", None)
    configure_logging("debug", log_format)
    structlog.get_logger("a").info("lost")
    logging.getLogger("b").warning("lost")
