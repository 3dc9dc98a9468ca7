"""When `/ready` sends load balancers here: while requests would be served now."""

from __future__ import annotations

from math import inf

import pytest
from page_families import WORKERS, new_dispatcher

from gateway.dispatcher import Dispatcher
from gateway.local_prefill import LocalPrefillMode
from gateway.tenants import DEFAULT_TENANT
from tandem.core.worker import WorkerRole

PREFILL, DECODE = WORKERS[WorkerRole.PREFILL], WORKERS[WorkerRole.DECODE]


def serving(local_prefill: LocalPrefillMode) -> Dispatcher:
    dispatcher = new_dispatcher(local_prefill)
    for each in (PREFILL, DECODE):
        assert not dispatcher.ready
        dispatcher.joined(each, each.worker_id)
    assert dispatcher.ready
    return dispatcher


@pytest.mark.parametrize("worker", [PREFILL, DECODE])
async def test_not_while_a_roles_only_worker_may_be_lost(worker) -> None:
    """Another gateway may hear its own. But who asks here all the same waits, and is served if the
    worker is back."""
    dispatcher = serving("off")
    dispatcher.suspected(worker)
    assert not dispatcher.ready
    dispatcher.check_room(DEFAULT_TENANT, 1, inf)
    dispatcher.trusted(worker)
    assert dispatcher.ready
    await dispatcher.stop()


async def test_not_while_the_only_decode_worker_drains_but_prefill_can_do_without() -> None:
    dispatcher = serving("auto")
    dispatcher.drain_worker(PREFILL.worker_id, 0.0)
    assert dispatcher.ready
    dispatcher.drain_worker(DECODE.worker_id, 0.0)
    assert not dispatcher.ready
    dispatcher.undrain_worker(DECODE.worker_id)
    dispatcher.suspected(PREFILL)
    assert dispatcher.ready
    await dispatcher.stop()


async def test_not_while_the_only_prefill_worker_drains_if_decode_workers_compute_none() -> None:
    dispatcher = serving("off")
    dispatcher.drain_worker(PREFILL.worker_id, 0.0)
    assert not dispatcher.ready
    await dispatcher.stop()
