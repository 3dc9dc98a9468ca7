"""Prepares an engine for sequences, beside its steps."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import structlog

from tandem.core.errors import TandemError
from tandem.engine.protocols import Engine
from tandem.transfer.state_guard import StateGuard
from tandem.worker.preparation import Preparation
from tandem.worker.state import WorkerState

log = structlog.get_logger(__name__)


class Preparer:
    """One thread, which takes preparations in the order in which they came, and tells the state of
    each how it ended. `under_way` is what it is at, to be read by others."""

    def __init__(
        self, engine: Engine, state: WorkerState[Any, Any, Any], guard: StateGuard
    ) -> None:
        self._engine = engine
        self._state = state
        self._guard = guard
        self.under_way: str | None = None
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="prepare")

    def start(self, preparations: Iterable[Preparation]) -> None:
        """Never waits."""
        for each in preparations:
            self._executor.submit(self._run, each)

    def stop(self) -> None:
        """Let the one that is under way end, and drop the others."""
        self._executor.shutdown(cancel_futures=True)

    def _run(self, preparation: Preparation) -> None:
        try:
            # Others wait for their turn: none is to be spent on who has left before its own.
            with self._guard.lock:
                wanted = self._state.preparations.is_wanted(preparation)
            if wanted:
                self.under_way = f"preparing sequence {preparation.sequence_id}"
                self._prepare(preparation)
        except BaseException as error:  # nobody reads the future
            self._guard.crashed(error)
            raise
        finally:
            self.under_way = None

    def _prepare(self, preparation: Preparation) -> None:
        error: TandemError | None = None
        try:
            self._engine.prepare(preparation.sequence_id, preparation.params)
        except TandemError as its_own:
            error = its_own
        except Exception as failure:
            log.exception(
                "preparing failed",
                sequence=preparation.sequence_id,
                request_id=preparation.request_id,
            )
            error = TandemError(f"the engine failed: {type(failure).__name__}")
        with self._guard.change():
            self._state.prepared(preparation, error)
