"""Modelled time, on a clock that moves only when something sleeps."""

import pytest
from kv_items import read_kv

from tandem.core.kv import Plane
from tandem.core.plan import StepPlan
from tandem.engine.fake.clock import RealClock
from tandem.engine.fake.link import VirtualLink
from tandem.engine.fake.profile import DeviceConstants, ModelConstants, Profile

# A step takes 1 s + 1 s for each token; a token of one plane and layer takes 1 s on the link.
PLAIN = Profile(
    "plain",
    DeviceConstants(
        peak_flops=4.0,
        efficiency=0.5,
        memory_bytes=1e9,
        memory_bandwidth=1e9,
        link_bandwidth=1.0,
        launch_s=1.0,
    ),
    ModelConstants(num_params=1.0, num_layers=8, hidden_size=0, item_bytes=0, kv_bytes_per_token=8),
)


class StuckClock:
    """Never moves, so that loads pile up as they do from many threads at once."""

    def __init__(self) -> None:
        self.sleeps: list[float] = []

    def now(self) -> float:
        return 0.0

    def sleep_until(self, when: float) -> None:
        self.sleeps.append(when)


def test_a_step_takes_its_time_when_its_result_is_awaited(make_engine, make_slice, clock):
    engine = make_engine(profile=PLAIN, clock=clock)
    step = engine.launch(StepPlan(0, (make_slice([1, 2, 3], [5]),)))
    assert clock.sleeps == []
    step.result()
    step.result()
    assert clock.sleeps == [4.0]


def test_steps_follow_each_other(make_engine, make_slice, clock):
    engine = make_engine(profile=PLAIN, clock=clock)
    ahead = [engine.launch(StepPlan(n, (make_slice([1], [5]),))) for n in range(2)]
    for each in ahead:
        each.result()
    clock.time = 10.0
    engine.launch(StepPlan(2, (make_slice([1], [5]),))).result()
    assert clock.sleeps == [2.0, 4.0, 12.0]


def test_layers_are_due_at_even_times(make_engine, make_slice, clock):
    engine = make_engine(profile=PLAIN, clock=clock)
    due = []
    step = engine.launch(
        StepPlan(0, (make_slice([1, 2, 3], [5]),)),
        lambda layer: due.append((layer, clock.now())),
    )
    step.result()
    assert due == [(0, 1.0), (1, 2.0), (2, 3.0), (3, 4.0)]
    assert clock.sleeps == [1.0, 2.0, 3.0, 4.0]


def test_a_read_takes_the_links_time(make_engine, clock):
    pool = make_engine(profile=PLAIN, clock=clock).pool
    read_kv(pool, Plane.KEY, range(1, 4), [0, 1], 5)
    assert clock.sleeps == [15.0]


def test_loads_queue_on_the_link():
    clock = StuckClock()
    link = VirtualLink(clock)
    for seconds in (1.0, 2.0, 0.5):
        link.carry(seconds)
    assert clock.sleeps == [1.0, 3.0, 3.5]


def test_a_link_that_was_idle_starts_at_once(clock):
    link = VirtualLink(clock)
    link.carry(1.0)
    clock.time = 5.0
    link.carry(1.0)
    assert clock.sleeps == [1.0, 6.0]


def test_the_zero_profile_never_sleeps(make_engine, make_slice, sleepless):
    engine = make_engine(clock=sleepless)
    layers = []
    engine.launch(StepPlan(0, (make_slice(range(9), [5, 6, 7]),)), layers.append).result()
    read_kv(engine.pool, Plane.KEY, range(4), [5, 6, 7], 9)
    assert layers == [0, 1, 2, 3]


@pytest.mark.parametrize("seconds", [-1.0, 0.0, 20e-6, 300e-6])
def test_the_real_clock_wakes_no_sooner_than_asked(seconds):
    clock = RealClock()
    when = clock.now() + seconds
    clock.sleep_until(when)
    assert clock.now() >= when
