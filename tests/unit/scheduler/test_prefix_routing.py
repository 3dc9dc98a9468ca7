"""Where a prompt goes whose beginning is cached somewhere, and what it counts for."""

from __future__ import annotations

from typing import Any

import pytest
from scheduler_driver import SchedulerDriver
from sim_worker import BLOCK_SIZE

from gateway.colocated_policies import colocated_policy
from gateway.generation import Generation
from gateway.local_prefill import LocalPrefillMode
from gateway.policies import queue_policy
from gateway.router import choose_decode
from gateway.scheduler import Scheduler
from gateway.shared_state import Limits
from gateway.worker_view import PoolUse
from tandem.core.commands import Admit, PrefillBatch, Reserve
from tandem.core.prefix import PrefixChain, digest
from tandem.core.prefix_cache import CacheChanges
from tandem.core.reports import Armed, FirstToken, SequenceFailed, Span, SpanKind
from tandem.core.sequence import FinishReason
from tandem.core.worker import WorkerRole

TOKEN_S, BASE_S = 1e-3, 0.02
SYSTEM = tuple(range(40))
MIB = 2**20


class Driver(SchedulerDriver):
    """A scheduler over workers that are told apart by the first letter of their names."""

    def __init__(
        self,
        *names: str,
        max_batch_tokens: int = 64,
        num_blocks: int = 1000,
        policy: str = "fcfs",
        local_prefill: LocalPrefillMode = "off",
    ) -> None:
        is_colocated = not any(name.startswith("p") for name in names)
        scheduler = Scheduler(
            queue_policy(policy),
            Limits(max_batch_tokens),
            colocated=colocated_policy("chunked", 64, 16) if is_colocated else None,
            local_prefill=local_prefill,
        )
        super().__init__(scheduler, num_blocks=num_blocks, max_num_seqs=64)
        for name in names:
            self.join(name, WorkerRole.PREFILL if name.startswith("p") else WorkerRole.DECODE)

    def learn(self, *names: str) -> None:
        """Steps of so many tokens take so long; a MiB is sent in 10 ms."""
        for name in names:
            for num_tokens in (0, 16, 64) * 10:
                self.stepped(name, num_tokens, BASE_S + TOKEN_S * num_tokens)
            self.hear(name, Span(SpanKind.FRAME_SENT, 0, 10**7, num_bytes=MIB))

    def hear(self, name: str, *spans: Span, num_free: int | None = None, **cache: Any) -> bool:
        changes = CacheChanges(**cache) if cache else None
        free = self.num_blocks if num_free is None else num_free
        return self.scheduler.heard(name, PoolUse(free), 0.0, spans, changes)

    def cache(self, name: str, tokens: tuple[int, ...], salt: bytes = b"") -> None:
        """A worker says that it has the blocks of these tokens."""
        hashes = PrefixChain(tokens, BLOCK_SIZE, salt).between(0, len(tokens) // BLOCK_SIZE)
        self.hear(name, added=tuple(map(digest, hashes)))

    def submit(
        self, name: str, *own: int, system: tuple[int, ...] = SYSTEM, max_tokens: int = 5
    ) -> Generation:
        return self.submit_prompt(name, (*system, *own), max_tokens)

    def placed(self, generation: Generation) -> tuple[str, str]:
        self.commands(Reserve)
        return generation.prefill_worker, generation.decode_worker


# Which prefill worker


@pytest.mark.parametrize("name", ["p0", "p1", "p2"])
def test_a_prompt_goes_where_its_beginning_is_cached(name: str) -> None:
    driver = Driver("p0", "p1", "p2", "d")
    driver.cache(name, SYSTEM)
    assert driver.placed(driver.submit("r", 99))[0] == name


def test_another_salt_finds_nothing() -> None:
    driver = Driver("p0", "p1", "d")
    driver.cache("p1", SYSTEM, b"another's")
    assert driver.placed(driver.submit("r", 99))[0] == "p0"


def test_what_begins_alike_does_not_all_go_to_one_worker() -> None:
    """Once the queue there takes longer than computing it elsewhere, it goes elsewhere."""
    driver = Driver("p0", "p1", "d")
    driver.learn("p0", "p1", "d")
    driver.cache("p1", SYSTEM)
    generations = [driver.submit(str(n), 200 + n, *range(100, 130)) for n in range(6)]
    driver.commands(Reserve)
    workers = [each.prefill_worker for each in generations]
    assert workers[0] == "p1"
    assert "p0" in workers
    assert workers.count("p1") > workers.count("p0")


def test_a_worker_without_room_leaves_its_prompts_to_others() -> None:
    driver = Driver("p0", "p1", num_blocks=20)
    driver.join("d", WorkerRole.DECODE, num_blocks=1000)
    driver.cache("p1", SYSTEM)
    first = driver.submit("first", *range(100, 120))
    assert driver.placed(first)[0] == "p1"
    driver.grant(first)
    # p1 could take a batch, but lacks blocks for this one.
    second = driver.submit("second", 99)
    assert driver.placed(second)[0] == "p0"


def test_a_suspected_worker_gets_nothing_whatever_it_has() -> None:
    driver = Driver("p0", "p1", "d")
    driver.cache("p1", SYSTEM)
    driver.scheduler.worker_suspected("p1")
    assert driver.placed(driver.submit("r", 99))[0] == "p0"


# Which decode worker


def test_kv_that_is_there_need_not_be_moved() -> None:
    driver = Driver("p", "d0", "d1")
    driver.learn("p")
    driver.cache("d1", SYSTEM)
    assert driver.placed(driver.submit("r", 99))[1] == "d1"


@pytest.mark.parametrize(("frame_s", "expected"), [(1.0, "d1"), (1e-6, "d0")])
def test_moving_is_weighed_against_load_in_seconds(frame_s: float, expected: str) -> None:
    """A slow link makes up for a few sequences more, a fast one does not."""
    driver = Driver("p", "d0", "d1")
    driver.learn("p")
    frame_ns = int(frame_s * 1e9)
    for start_ns in range(10**9, 10**9 + 1000 * frame_ns, frame_ns):
        driver.hear("p", Span(SpanKind.FRAME_SENT, start_ns, start_ns + frame_ns, num_bytes=1024))
    driver.cache("d1", SYSTEM)
    fleet = driver.scheduler._fleet
    for number in range(3):
        fleet.decode["d1"].enter(driver.submit(str(number), number), 4)
    generation = driver.submit("r", 99)
    chosen = choose_decode(fleet.decode.values(), fleet.prefill["p"], generation, now=0.0)
    assert chosen is fleet.decode[expected]


def test_sequences_count_where_prompt_tokens_seemed_to_be_free() -> None:
    """They hide behind what a step reads, and more on d0 than on d1."""
    driver = Driver("p", "d0", "d1")
    driver.learn("p")
    for num_tokens in (0, 16, 64) * 10:
        driver.stepped("d0", num_tokens, BASE_S + TOKEN_S / 1000 * num_tokens)
        driver.stepped("d1", num_tokens, BASE_S + TOKEN_S / 10 * num_tokens)
    fleet = driver.scheduler._fleet
    for name, number in (("d0", 1), ("d0", 2), ("d0", 3), ("d1", 4)):
        fleet.decode[name].enter(driver.submit(str(number), number), 4)
    generation = driver.submit("r", 99)
    chosen = choose_decode(fleet.decode.values(), fleet.prefill["p"], generation, now=0.0)
    assert chosen is fleet.decode["d1"]


def test_without_any_measure_the_emptiest_takes_it() -> None:
    driver = Driver("p", "d0", "d1", max_batch_tokens=4096)
    driver.cache("d0", SYSTEM)
    first, second = driver.submit("one", 1), driver.submit("two", 2)
    driver.commands(Reserve)
    assert [first.decode_worker, second.decode_worker] == ["d0", "d1"]


def test_a_colocated_worker_is_chosen_by_what_it_has_and_what_it_runs() -> None:
    driver = Driver("d0", "d1")
    driver.cache("d1", SYSTEM)
    generations = [driver.submit(str(n), n, max_tokens=20) for n in range(4)]
    driver.commands(Reserve)
    assert [each.decode_worker for each in generations] == ["d1", "d1", "d0", "d1"]


# Room


def shared_room_driver() -> tuple[Driver, Generation]:
    """A decode worker with 16 blocks, 13 of which a running sequence holds."""
    driver = Driver("p", "d", num_blocks=16, max_batch_tokens=4096)
    first = driver.submit("first", 1, 2, 3, max_tokens=9)
    driver.commands(Reserve)
    driver.grant(first)
    driver.commands(PrefillBatch)
    armed = Armed(first.sequence_id, first.num_prompt_tokens, 50, 0)
    driver.scheduler.report("d", armed)
    done = FirstToken(first.sequence_id, first.num_prompt_tokens, 50, None)
    driver.scheduler.report("p", done)
    driver.scheduler.report("p", SequenceFailed(first.sequence_id, "UNAVAILABLE", ""))
    return driver, first


def test_shared_blocks_leave_room_where_the_worker_says_so() -> None:
    driver, _ = shared_room_driver()
    driver.cache("d", SYSTEM)
    driver.hear("d", num_free=3)
    second = driver.submit("second", 1, 2, 3, max_tokens=9)
    view = driver.scheduler._fleet.decode["d"]
    assert view.can_take(second)
    assert driver.placed(second)[1] == "d"
    # What was asked for since it said so is not there any more.
    assert not view.can_take(second)
    driver.grant(second, len(SYSTEM))
    assert not view.asked_blocks


def test_what_is_not_shared_has_none() -> None:
    driver, _ = shared_room_driver()
    driver.hear("d", num_free=3)
    assert driver.placed(driver.submit("second", 1, 2, 3, max_tokens=9))[1] == ""


def test_of_two_that_were_computed_alike_each_has_its_own_blocks() -> None:
    """The cache keeps those of who was first."""
    driver = Driver("p", "d")
    first, second = driver.submit("first", 99), driver.submit("second", 99)
    driver.commands(Reserve)
    view = driver.scheduler._fleet.decode["d"]
    num_blocks = view.num_used_blocks
    for each in (first, second):
        driver.scheduler.report("d", Armed(each.sequence_id, each.num_prompt_tokens, 50, 0))
    assert len(view.shared_blocks) == len(SYSTEM) // BLOCK_SIZE
    assert view.num_used_blocks + len(view.shared_blocks) == num_blocks


# What a prompt counts for


def batch_of(driver: Driver, *generations: Generation, num_cached: int = 0) -> PrefillBatch:
    driver.commands(Reserve)
    for generation in generations:
        driver.grant(generation, num_cached)
    (batch,) = driver.commands(PrefillBatch)
    return batch


def test_cached_tokens_take_no_room_in_a_batch() -> None:
    driver = Driver("p", "d", max_batch_tokens=16)
    driver.cache("p", SYSTEM)
    generations = [driver.submit(str(n), n, 7, 7, 7) for n in range(4)]
    batch = batch_of(driver, *generations)
    assert [len(chunk.token_ids) for chunk in batch.chunks] == [44] * 4
    assert all(chunk.last for chunk in batch.chunks)
    assert batch.max_tokens == 16
    view = driver.scheduler._fleet.prefill["p"]
    assert view.num_queued_tokens == 16


def test_the_first_chunk_ends_behind_what_is_cached() -> None:
    driver = Driver("p", "d", max_batch_tokens=16)
    driver.cache("p", SYSTEM)
    generation = driver.submit("r", *range(100, 130))
    driver.commands(Reserve)
    driver.grant(generation)
    chunks = [batch.chunks[0] for batch in driver.commands(PrefillBatch)]
    assert [(each.start, len(each.token_ids), each.last) for each in chunks] == [
        (0, 56, False),
        (56, 14, True),
    ]


def test_the_shortest_is_the_one_with_the_least_to_compute() -> None:
    driver = Driver("p", "d", max_batch_tokens=8, policy="shortest-first")
    driver.learn("p")
    driver.cache("p", SYSTEM)
    for name in ("a", "b"):
        driver.submit(name, system=(3,) * 8)
    driver.commands(Reserve)
    driver.submit("short", system=(9,) * 20)
    driver.submit("long, but cached", 99)
    assert driver.scheduler._queue.peek().request.request_id == "long, but cached"


# What is told


def test_the_response_says_what_was_cached_where_it_was_computed() -> None:
    driver = Driver("p", "d")
    generation = driver.submit("r", 99)
    batch_of(driver, generation, num_cached=16)
    first = FirstToken(generation.sequence_id, 41, 50, None, None, num_cached_tokens=40)
    for _ in range(2):  # A snapshot may repeat it.
        driver.scheduler.report("p", first)
    driver.scheduler.report("d", Armed(generation.sequence_id, 41, 50, 0))
    by = generation.served_by()
    assert by.num_cached_tokens == 40
    assert by.kv_bytes == (41 - 16) * generation.token_kv_bytes
    view = driver.scheduler._fleet.prefill["p"]
    assert (view.num_prompt_tokens, view.num_cached_tokens) == (41, 40)


def test_one_that_ends_with_its_first_token_says_it_too() -> None:
    driver = Driver("p", "d")
    generation = driver.submit("r", 99, max_tokens=1)
    driver.commands(PrefillBatch)
    end = FirstToken(generation.sequence_id, 41, 50, FinishReason.LENGTH, None, 40)
    driver.scheduler.report("p", end)
    assert generation.served_by().num_cached_tokens == 40


def test_a_prompt_that_is_computed_where_it_is_decoded_begins_where_the_grant_says() -> None:
    driver = Driver("d")
    generation = driver.submit("r", 99)
    driver.commands(Reserve)
    driver.grant(generation, 32)
    assert (generation.num_tokens_left, generation.num_cached_tokens) == (9, 32)
    driver.stepped("d", 9, 0.1)
    assert generation.num_tokens_left == 0


# Local prefill


def local_driver() -> Driver:
    driver = Driver("p", "d", local_prefill="auto", max_batch_tokens=4096)
    driver.learn("p", "d")
    return driver


def local(driver: Driver) -> list[int]:
    return [admit.sequence_id for admit in driver.commands(Admit) if admit.compute]


def test_the_rest_of_a_long_prompt_that_is_cached_there_is_computed_there() -> None:
    """An idle prefill worker, which has less of it, is spared."""
    system = tuple(range(1000)) * 2
    driver = local_driver()
    driver.cache("d", system)
    generation = driver.submit("r", 1, 2, 3, system=system)
    assert local(driver) == [generation.sequence_id]


def test_an_idle_prefill_worker_that_has_as_much_takes_it() -> None:
    driver = local_driver()
    for name in ("p", "d"):
        driver.cache(name, SYSTEM)
    driver.submit("r", 1, 2, 3)
    assert local(driver) == []


def test_a_long_rest_waits_for_a_prefill_worker() -> None:
    driver = local_driver()
    driver.cache("d", SYSTEM)
    driver.submit("r", *range(1000))
    assert local(driver) == []
