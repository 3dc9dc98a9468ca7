"""Places that clients hold, so many in all, and how many of them one tenant may. Pure.

No tenant takes more than so many times what would then be left (Choudhury and Hahne's dynamic
thresholds): alone one may have most of the places, of several who want all each has as many as the
others, and whoever comes always finds some.
"""

from __future__ import annotations

from collections import Counter

from gateway.tenants import Tenants

# One alone has three quarters.
TIMES_THE_REST = 3


class Places:
    """Who holds one, and of which tenant that is, once it is known. Of one tenant that there is
    alone are all."""

    def __init__(self, num_places: int, tenants: Tenants) -> None:
        self._num_places = num_places
        self._has_others = len(tenants) > 1
        self._holders: dict[object, str | None] = {}
        self._num_of = Counter[str | None]()

    def __len__(self) -> int:
        return len(self._holders)

    @property
    def has_room(self) -> bool:
        """Whether one more may come, whoever it is."""
        return len(self._holders) < self._num_places

    def may_have_more(self, tenant: str, holder: object = None) -> bool:
        """Whether one more may be a tenant's, which a `holder` may have already, as nobody's or
        another's. A tenant without a name is whoever has no key."""
        if tenant and not self._has_others:
            return True
        num_others = len(self._holders) - (holder in self._holders)
        return self._num_of[tenant] < TIMES_THE_REST * (self._num_places - num_others)

    def tenant_of(self, holder: object) -> str | None:
        """Whose a holder's place is, None if that is not known, or it has none."""
        return self._holders.get(holder)

    def hold(self, holder: object, tenant: str | None = None) -> None:
        """Have a holder's place, which may be new, be a tenant's; nobody's as long as that is not
        known."""
        self.leave(holder)
        self._holders[holder] = tenant
        self._num_of[tenant] += 1

    def leave(self, holder: object) -> None:
        """Give a place back; idempotent."""
        if holder in self._holders:
            self._num_of[self._holders.pop(holder)] -= 1
