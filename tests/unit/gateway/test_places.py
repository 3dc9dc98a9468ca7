"""How many places one tenant may hold."""

from __future__ import annotations

import pytest

from gateway.places import TIMES_THE_REST, Places
from gateway.tenants import ONE_TENANT, Tenant, Tenants

TENANTS: Tenants = {**ONE_TENANT, "one": Tenant(), "other": Tenant()}
NUM = 400


def fill(places: Places, *tenants: str) -> dict[str, int]:
    """Let tenants take by turns as many as they may, and say how many these are."""
    held = dict.fromkeys(tenants, 0)
    while places.has_room and any(places.may_have_more(each) for each in tenants):
        for each in tenants:
            if places.has_room and places.may_have_more(each):
                places.hold(object(), each)
                held[each] += 1
    return held


def test_one_alone_has_most_and_whoever_comes_finds_some() -> None:
    places = Places(NUM, {**ONE_TENANT, "one": Tenant()})
    assert fill(places, "one")["one"] == pytest.approx(0.75 * NUM, abs=1)
    assert fill(places, "default")["default"] >= NUM // 6
    assert places.has_room


def test_of_several_who_want_all_each_has_as_many() -> None:
    held = fill(Places(NUM, TENANTS), "one", "other")
    assert held["one"] == pytest.approx(held["other"], abs=1)
    assert held["one"] == pytest.approx(NUM * TIMES_THE_REST / (1 + 2 * TIMES_THE_REST), abs=2)


def test_the_only_tenant_may_have_all() -> None:
    places = Places(NUM, ONE_TENANT)
    for _ in range(NUM):
        assert places.has_room
        assert places.may_have_more("default")
        places.hold(object(), "default")
    assert not places.has_room


def test_strangers_leave_some_to_the_only_tenant() -> None:
    places = Places(NUM, ONE_TENANT)
    assert fill(places, "")[""] == pytest.approx(0.75 * NUM, abs=1)
    assert places.has_room
    assert places.may_have_more("default")


def test_the_last_place_may_be_that_of_who_has_it() -> None:
    places, holder = Places(1, TENANTS), object()
    places.hold(holder)
    assert not places.may_have_more("one")
    assert places.may_have_more("one", holder)


def test_a_place_is_given_back_once_and_to_whose_it_was() -> None:
    places, holder = Places(4, TENANTS), object()
    places.hold(holder)
    assert places.tenant_of(holder) is None
    for _ in range(4 * TIMES_THE_REST):
        places.hold(holder, "one")
    assert (len(places), places.tenant_of(holder)) == (1, "one")
    assert places.may_have_more("one")
    fill(places, "one")
    assert not places.may_have_more("one")
    for _ in range(3):
        places.leave(holder)
    assert places.may_have_more("one")
    places.hold(holder, "other")
    assert places.tenant_of(holder) == "other"


def test_who_has_come_and_gone_holds_none() -> None:
    places, holder = Places(NUM, TENANTS), object()
    for _ in range(NUM):
        for tenant in (None, "one", "other"):
            places.hold(holder, tenant)
        places.leave(holder)
    assert fill(places, "one", "other") == fill(Places(NUM, TENANTS), "one", "other")
