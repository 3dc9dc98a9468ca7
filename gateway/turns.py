"""Tenants take turns: each has a counter of what it was served, by its weight, and the lowest goes
next.

Whoever comes to wait after having had nothing to wait for is lifted to where the last turn began,
as in start-time fair queueing (Goyal et al., SIGCOMM 1996), so that nobody can save turns up.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from gateway.tenants import Tenants


class Turns:
    """The counters. Sizes are in any unit."""

    def __init__(self, tenants: Tenants) -> None:
        self.weights = {name: tenant.weight for name, tenant in tenants.items()}
        self._total_weight = sum(self.weights.values())
        self._counters = dict.fromkeys(tenants, 0.0)
        self._last_start = 0.0

    def counter(self, tenant: str) -> float:
        """What it was served, divided by its weight."""
        return self._counters[tenant]

    def share(self, tenant: str, among: Collection[str]) -> float:
        """What is a tenant's due, if `among` are those who want something; it is one of them."""
        return self.shares(among)(tenant)

    def shares(self, among: Collection[str]) -> Callable[[str], float]:
        """What says so of any of them."""
        total_weight = sum(self.weights[each] for each in among)
        return lambda tenant: self.weights[tenant] / total_weight

    def share_of_all(self, tenant: str) -> float:
        """What is its due, whoever wants something."""
        return self.weights[tenant] / self._total_weight

    def first(self, tenants: Iterable[str]) -> str:
        """Whose turn it is; of equals, who is named first."""
        return min(tenants, key=self._counters.__getitem__)

    def came(self, tenant: str) -> None:
        """A tenant comes to wait."""
        self.lift(tenant, self._last_start)

    def lift(self, tenant: str, counter: float) -> None:
        """What a tenant did not take until there it does not take later."""
        self._counters[tenant] = max(self._counters[tenant], counter)

    def serve(self, tenant: str, size: float) -> None:
        """It is a tenant's turn."""
        self._last_start = self._counters[tenant]
        self.add(tenant, size)

    def add(self, tenant: str, size: float) -> None:
        """What a tenant was served without a turn; less than nothing is taken back."""
        self._counters[tenant] += size / self.weights[tenant]
