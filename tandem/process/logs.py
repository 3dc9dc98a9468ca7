"""Structured logs on standard error."""

from __future__ import annotations

import logging
import sys
from typing import Literal, TextIO

import structlog
from structlog.stdlib import ProcessorFormatter
from structlog.typing import EventDict, Processor, WrappedLogger

from tandem.process.closed_stderr import open_stderr
from tandem.process.rare_lines import RareLines

LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["console", "json"]

# Libraries whose failures come again and again, and are those of something that nobody waits for:
# a collector of traces that is not there is told of with each batch, and each try.
TOLD_RARELY = ("opentelemetry",)
RARELY_S = 60.0
NUM = "num"


def configure_logging(level: LogLevel, log_format: LogFormat) -> None:
    """To be called once, at the start of a process. From then on no call of a logger raises because
    nothing can be written. What libraries log, warnings included, comes out in the same form, from
    `warning` on: what they say below that may have somebody's words in it."""
    open_stderr()
    renderer = (
        structlog.processors.JSONRenderer()
        if log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    lines = LineLogger(sys.stderr)
    first: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso"),
    ]
    last: list[Processor] = [structlog.processors.format_exc_info, lines.tell_missing, renderer]
    min_level = getattr(logging, level.upper())
    structlog.configure(
        processors=[*first, *last],
        wrapper_class=structlog.make_filtering_bound_logger(min_level),
        logger_factory=lines,
    )
    handler = LibraryHandler(lines)
    handler.setFormatter(
        ProcessorFormatter(
            foreign_pre_chain=[*first, structlog.stdlib.add_logger_name, _of_a_library],
            processors=[ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    logging.basicConfig(handlers=[handler], level=max(logging.WARNING, min_level), force=True)
    logging.captureWarnings(capture=True)


def _of_a_library(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """A processor of structlog's: one line, with how many others it stands for, if it does."""
    # Python's warnings end with one.
    event["event"] = event["event"].rstrip("\n")
    if num := getattr(event["_record"], NUM, 0):
        event[NUM] = num
    return event


class LibraryHandler(logging.Handler):
    """What libraries log, by the standard's loggers, goes to `lines` as well; of those that are
    `TOLD_RARELY` few of what they say, with how many each stands for."""

    def __init__(self, lines: LineLogger) -> None:
        super().__init__()
        self._lines = lines
        self._rare = RareLines(RARELY_S)

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler`."""
        if record.name.startswith(TOLD_RARELY):
            # By where it is said: the words may differ each time.
            num = self._rare.due((record.name, record.lineno))
            if not num:
                return
            setattr(record, NUM, num)
        try:
            self._lines.msg(self.format(record))
        except Exception:
            self.handleError(record)


class LineLogger:
    """The one logger at the end of all: writes their lines to a stream. A full disk, or a pipe that
    nobody reads any more, costs lines, and never what the program was about to do: how many may be
    missing stands in the next line that can be written."""

    def __init__(self, stream: TextIO) -> None:
        self._print = structlog.PrintLogger(stream).msg
        self._num_missing = 0

    def __call__(self, *args: object) -> LineLogger:
        """As structlog's factory of loggers."""
        return self

    def msg(self, line: str) -> None:
        """Write a line, if it can be written."""
        try:
            self._print(line)
        except (OSError, ValueError):
            self._num_missing += 1
        else:
            self._num_missing = 0

    log = debug = info = warning = error = critical = msg

    def tell_missing(self, logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        """A processor of structlog's: adds how many lines before this one could not be written."""
        if self._num_missing:
            event["missing_lines"] = self._num_missing
        return event
