"""Structured logs on standard error."""

from __future__ import annotations

import logging
import sys
from typing import Literal, TextIO

import structlog
from structlog.typing import EventDict, WrappedLogger

LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["console", "json"]


def configure_logging(level: LogLevel, log_format: LogFormat) -> None:
    """To be called once, at the start of a process. From then on no call of a logger raises because
    nothing can be written."""
    renderer = (
        structlog.processors.JSONRenderer()
        if log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    lines = LineLogger(sys.stderr)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            lines.tell_missing,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=lines,
    )


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
