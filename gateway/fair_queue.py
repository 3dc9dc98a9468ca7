"""Work that several tenants have waiting or under way: who may add to it, and whose is next. Pure.

Tenants take turns by the sizes of what was taken of each (`turns.py`).
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from gateway.tenants import Tenants
from gateway.turns import Turns

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """A piece of a tenant's work. Its size is in any unit, and not 0: all take their turns."""

    tenant: str
    size: int


@dataclass(slots=True)
class TenantQueue(Generic[T]):
    """One tenant's: how much it has in all, and what of that waits, oldest first."""

    num_pending: int = 0
    waiting: OrderedDict[Work, T] = field(default_factory=OrderedDict)


class FairQueue(Generic[T]):
    """Has room for work of `max_pending` in all, that which is under way included. Of this each
    tenant has a share by its weight whatever others have; alone, one may have everything."""

    def __init__(self, tenants: Tenants, max_pending: int) -> None:
        self._turns = Turns(tenants)
        self._queues = {name: TenantQueue[T]() for name in tenants}
        self._max_pending = max_pending
        self._num_pending = 0

    def can_push(self, work: Work) -> bool:
        """Whether there is room for more work of a tenant: in all, or in its share. For its first
        there is, however large: that has limits elsewhere."""
        own = self._queues[work.tenant]
        share = self._turns.share_of_all(work.tenant)
        return (
            not own.num_pending
            or self._num_pending + work.size <= self._max_pending
            or own.num_pending + work.size <= share * self._max_pending
        )

    def push(self, work: Work, item: T) -> None:
        """Have work wait. `item` is what `take` gives when it is its turn."""
        own = self._queues[work.tenant]
        if not own.waiting:
            self._turns.came(work.tenant)
        own.waiting[work] = item
        self._add(own, work.size)

    def take(self) -> T | None:
        """The oldest of the tenant whose turn it is: it is under way then. None if nothing
        waits."""
        waiting = [tenant for tenant, each in self._queues.items() if each.waiting]
        if not waiting:
            return None
        work, item = self._queues[self._turns.first(waiting)].waiting.popitem(last=False)
        self._turns.serve(work.tenant, work.size)
        return item

    def end(self, work: Work) -> None:
        """Work was done, or is given up: it may still wait."""
        own = self._queues[work.tenant]
        own.waiting.pop(work, None)
        self._add(own, -work.size)

    def _add(self, own: TenantQueue[T], size: int) -> None:
        own.num_pending += size
        self._num_pending += size
