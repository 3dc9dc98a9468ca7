"""The order in which jobs of two parts are run on one thread."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from tandem.transfer.copy_thread import CopyJob, CopyThread, run_in_turn


class Jobs:
    """Their log, and a job in front that lasts until it is let go."""

    def __init__(self) -> None:
        self.thread = CopyThread("copies")
        self.log: list[str] = []
        self._reached, self._goes_on = threading.Event(), threading.Event()

    def job(self, name: str, fails: str = "", waits: bool = True) -> CopyJob[str]:
        try:
            self._log(f"begin {name}", fails)
            if waits:
                yield
            self._log(f"end {name}", fails)
            return name
        finally:
            self.log.append(f"close {name}")

    def run(self, name: str, fails: str = "", waits: bool = True) -> asyncio.Future[str]:
        return self.thread.run(self.job(name, fails, waits))

    async def block(self) -> asyncio.Future[None]:
        blocking = self.thread.run(self._block())
        await asyncio.to_thread(self._reached.wait, 10)
        return blocking

    def go_on(self) -> None:
        self._goes_on.set()

    def _block(self) -> CopyJob[None]:
        yield
        self._reached.set()
        assert self._goes_on.wait(10)

    def _log(self, what: str, fails: str) -> None:
        self.log.append(what)
        if what.startswith(fails or "-"):
            raise ValueError(what)


@pytest.fixture
async def jobs() -> AsyncIterator[Jobs]:
    jobs = Jobs()
    yield jobs
    jobs.go_on()
    await asyncio.to_thread(jobs.thread.close)


async def test_a_job_alone_begins_and_ends(jobs: Jobs) -> None:
    assert [await jobs.run(name) for name in "ab"] == ["a", "b"]
    assert jobs.log == ["begin a", "end a", "close a", "begin b", "end b", "close b"]


async def test_the_job_behind_begins_before_the_one_in_front_ends(jobs: Jobs) -> None:
    await jobs.block()
    running = [jobs.run(name) for name in "abc"]
    jobs.go_on()
    assert await asyncio.gather(*running) == ["a", "b", "c"]
    ends = [each for each in jobs.log if not each.startswith("close")]
    assert ends == ["begin a", "begin b", "end a", "begin c", "end b", "end c"]


async def test_a_job_with_nothing_to_wait_for_ends_as_it_begins(jobs: Jobs) -> None:
    await jobs.block()
    running = [jobs.run(name, waits=False) for name in "ab"]
    jobs.go_on()
    assert await asyncio.gather(*running) == ["a", "b"]
    assert jobs.log == ["begin a", "end a", "close a", "begin b", "end b", "close b"]


async def test_what_ended_as_it_began_does_not_wait_for_the_next(jobs: Jobs) -> None:
    reached, goes_on = threading.Event(), threading.Event()

    def slow() -> CopyJob[str]:
        reached.set()
        assert goes_on.wait(10)
        yield
        return "slow"

    await jobs.block()
    running = [jobs.run("a", waits=False), jobs.thread.run(slow())]
    jobs.go_on()
    await asyncio.to_thread(reached.wait, 10)
    async with asyncio.timeout(10):
        assert await running[0] == "a"
    goes_on.set()
    assert await running[1] == "slow"


async def test_what_cannot_be_closed_keeps_nobody_from_it(jobs: Jobs) -> None:
    """As of a device that is lost."""
    reached, goes_on = threading.Event(), threading.Event()

    def slow() -> CopyJob[str]:
        yield
        reached.set()
        assert goes_on.wait(10)
        return "slow"

    def broken() -> CopyJob[str]:
        try:
            yield
        finally:
            raise ValueError("it cannot be waited for")

    await jobs.block()
    running = [jobs.thread.run(slow()), jobs.thread.run(broken()), jobs.run("c")]
    jobs.go_on()
    await asyncio.to_thread(reached.wait, 10)
    closing = asyncio.create_task(asyncio.to_thread(jobs.thread.close, leave=True))
    async with asyncio.timeout(10):
        await asyncio.wait([running[2]])
    assert running[2].cancelled()
    goes_on.set()
    await closing
    assert await running[0] == "slow"


@pytest.mark.parametrize("part", ["begin", "end"])
async def test_what_a_job_raises_is_its_own(jobs: Jobs, part: str) -> None:
    await jobs.block()
    running = [jobs.run("a"), jobs.run("b", fails=part), jobs.run("c")]
    jobs.go_on()
    ends = await asyncio.gather(*running, return_exceptions=True)
    assert [str(end) for end in ends] == ["a", f"{part} b", "c"]
    assert sorted(each for each in jobs.log if each.startswith("close")) == [
        f"close {name}" for name in "abc"
    ]


@pytest.mark.parametrize(
    ("part", "log"),
    [
        ("begin", ["begin a", "begin b", "close b", "end a", "close a"]),
        ("end", ["begin a", "begin b", "end a", "close a", "begin c", "end b", "close b"]),
    ],
)
async def test_of_jobs_in_turn_none_begins_behind_one_that_has_failed(
    jobs: Jobs, part: str, log: list[str]
) -> None:
    in_turn = (jobs.job("a"), jobs.job("b", fails=part), jobs.job("c"))
    with pytest.raises(ValueError, match=f"{part} b"):
        run_in_turn(_nothing(job) for job in in_turn)
    assert [each for each in jobs.log if each != "close c"] == log


def _nothing(job: CopyJob[str]) -> CopyJob[None]:
    yield from job


@pytest.mark.parametrize("fails", ["", "begin", "end"])
@pytest.mark.parametrize("waits", [True, False])
async def test_nothing_is_left_of_a_job_that_is_over(jobs: Jobs, fails: str, waits: bool) -> None:
    """Not even until garbage is collected: what it copied may be gigabytes."""
    job = _nothing(jobs.job("a", fails, waits))
    known = weakref.ref(job)
    gc.disable()
    try:
        with suppress(ValueError):
            run_in_turn([job])
        del job
        assert known() is None
    finally:
        gc.enable()


async def test_all_that_was_asked_for_has_ended_when_it_is_closed(jobs: Jobs) -> None:
    await jobs.block()
    running = [jobs.run(name) for name in "ab"]
    jobs.go_on()
    await asyncio.to_thread(jobs.thread.close)
    assert await asyncio.gather(*running) == ["a", "b"]


async def test_what_has_begun_is_closed_when_its_turn_does_not_come(jobs: Jobs) -> None:
    """`a` is at its turn, and has begun `b`, when the thread is closed."""
    reached, goes_on = threading.Event(), threading.Event()

    def slow() -> CopyJob[str]:
        yield
        reached.set()
        assert goes_on.wait(10)
        return "a"

    await jobs.block()
    running = [jobs.thread.run(slow()), jobs.run("b"), jobs.run("c")]
    jobs.go_on()
    await asyncio.to_thread(reached.wait, 10)
    closing = asyncio.create_task(asyncio.to_thread(jobs.thread.close, leave=True))
    async with asyncio.timeout(10):
        await asyncio.wait([running[2]])
    assert running[2].cancelled()
    assert jobs.log == ["begin b"]
    goes_on.set()
    await closing
    assert await running[0] == "a"
    assert jobs.log == ["begin b", "close b"]
