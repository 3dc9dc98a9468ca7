"""What fails with one request's event costs no worker its commands, and no other its events."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from lone_gateway import Link, new_dispatcher
from sim_worker import worker_info
from structlog.testing import capture_logs

from gateway.generation import Generation
from gateway.tokens import Ended, Token, TokenRequest
from tandem.core.commands import PrefillBatch, Remove, Reserve
from tandem.core.errors import Cancelled
from tandem.core.reports import Armed, BatchDone, Preempted, Reserved, StepDone
from tandem.core.sampling_params import SamplingParams
from tandem.core.sequence import FinishReason
from tandem.core.worker import WorkerRole
from tandem.v1 import worker_pb2


class Gateway:
    """A dispatcher over two workers, and two requests that run."""

    def __init__(self) -> None:
        self.dispatcher = new_dispatcher()
        self.links = {"p": Link(), "d": Link()}
        self.infos = {}
        for name, role in (("p", WorkerRole.PREFILL), ("d", WorkerRole.DECODE)):
            self.infos[name] = worker_info(name, role, 1, 100, 16)
            self.dispatcher._links[f"{name}:1"] = self.links[name]  # type: ignore[assignment]
            self.dispatcher.joined(self.infos[name], f"{name}:1")
        params = SamplingParams(max_tokens=5, seed=0)
        self.failing, self.other = (
            self.dispatcher.submit(TokenRequest(name, (5,) * 8, params))
            for name in ("failing", "other")
        )
        for stream in (self.failing, self.other):
            self.report("d", Reserved(stream.generation.sequence_id, b"x", 1, 0))
        assert isinstance(self.links["p"].sent[-1], PrefillBatch)
        for stream in (self.failing, self.other):
            self.report("d", Armed(stream.generation.sequence_id, 8, 50, 0))
            assert [each.token_id for each in stream.take() if isinstance(each, Token)] == [50]

    def report(self, name: str, *reports: Any, num_free_blocks: int = 100) -> None:
        header = worker_pb2.WorkerHeader(num_free_blocks=num_free_blocks)
        self.dispatcher.heard(self.infos[name], header, 0, reports)

    def step(self, reason: FinishReason | None) -> None:
        """The next token of both."""
        ids = (self.failing.generation.sequence_id, self.other.generation.sequence_id)
        self.report("d", StepDone(1, 0, 0, ids, (9, 9), (60, 60), (reason, reason)))

    def asked(self) -> list[str]:
        """For whom blocks were asked for."""
        sent = self.links["d"].sent
        return [each.key.request_id for each in sent if isinstance(each, Reserve)]

    def removed(self) -> list[int]:
        """What the decode worker need not hold any more."""
        sent = self.links["d"].sent
        return [each.sequence_id for each in sent if isinstance(each, Remove)]


@pytest.mark.parametrize("counted", ["token", "ended"])
async def test_an_event_that_fails_costs_its_own_request_alone(
    monkeypatch: pytest.MonkeyPatch, counted: str
) -> None:
    gateway = Gateway()
    original = getattr(gateway.dispatcher.metrics, counted)

    def fail(generation: Generation, *args: Any) -> None:
        if generation is gateway.failing.generation:
            raise ZeroDivisionError
        original(generation, *args)

    monkeypatch.setattr(gateway.dispatcher.metrics, counted, fail)
    with capture_logs() as logs:
        gateway.step(FinishReason.STOP if counted == "ended" else None)
        await asyncio.sleep(0)
    (told,) = (each for each in logs if each["log_level"] == "error")
    assert (told["request_id"], told["exc_info"]) == ("failing", True)
    events = gateway.other.take()
    assert isinstance(events[0], Token)
    assert events[0].token_id == 60
    failing_events = gateway.failing.take()
    if counted == "ended":
        both = [gateway.failing.generation, gateway.other.generation]
        assert sorted(gateway.removed()) == sorted(each.sequence_id for each in both)
        assert isinstance(events[-1], Ended)
        assert isinstance(failing_events[-1], Ended)
    else:
        assert gateway.removed() == [gateway.failing.generation.sequence_id]
        with pytest.raises(Cancelled):
            gateway.failing.take()
    gateway.dispatcher.end_all()


async def test_who_had_to_make_room_has_it_before_a_newcomer() -> None:
    gateway = Gateway()
    batches = [each for each in gateway.links["p"].sent if isinstance(each, PrefillBatch)]
    gateway.report("p", *(BatchDone(each.batch_id, 1) for each in batches))
    gateway.report("d", num_free_blocks=0)
    gateway.dispatcher.submit(
        TokenRequest("newcomer", (5,) * 8, SamplingParams(max_tokens=5, seed=0))
    )
    num_asked = len(gateway.asked())
    preempted = gateway.other.generation.sequence_id
    gateway.report("d", Preempted(preempted, parked=False), num_free_blocks=100)
    assert gateway.asked()[num_asked:] == ["other", "newcomer"]
