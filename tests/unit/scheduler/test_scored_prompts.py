"""Requests that ask how likely their prompts are: what is told of that, and when it is lost."""

from __future__ import annotations

from array import array
from dataclasses import replace
from typing import Any

import pytest
from local_prefill_driver import Driver as Local
from sim_worker import BLOCK_SIZE, LONG_MODEL
from test_colocated_batching import Driver as Colocated
from test_scheduler import LOST, Driver

from gateway.effects import Emit, Send
from gateway.generation import Generation, Phase
from gateway.prefix_index import PromptPrefix
from gateway.tokens import Ended, ScoredPrompt, ServedBy, Token, TokenRequest
from tandem.core.commands import PrefillBatch, Remove, Reserve
from tandem.core.errors import DataLoss, Mismatch
from tandem.core.logprobs import LogprobColumns
from tandem.core.prefix_cache import CacheChanges
from tandem.core.reports import (
    Armed,
    ComputedPrompt,
    DecodeSnapshot,
    FirstToken,
    Preempted,
    PrefillSnapshot,
    PromptScores,
    PromptTimes,
    Reserved,
    SequenceFailed,
    SequenceSnapshot,
    StepDone,
    TransferDone,
)
from tandem.core.sampling_params import SamplingParams
from tandem.core.sequence import FinishReason
from tandem.core.worker import WorkerRole

PROMPT = (5, 6, 7, 8)
SCORES = LogprobColumns(array("f", [-1.0, -2.0, -3.0]))
SCORED = ScoredPrompt(PROMPT, SCORES)
TIMES = PromptTimes(1, 2, 1)
# Whose sequences have as many tokens as that at the most.
WHOLE_MODEL = replace(LONG_MODEL, max_model_len=len(PROMPT))
# What a worker may tell of it instead, and what comes of that.
NOT_ALL = pytest.mark.parametrize(
    ("scores", "error"), [(None, Mismatch), (LogprobColumns(array("f", [-1.0])), DataLoss)]
)


def request(name: str = "r", prompt: tuple[int, ...] = PROMPT, **details: Any) -> TokenRequest:
    params = SamplingParams(max_tokens=5, seed=0, logprobs=0, prompt_logprobs=0)
    return TokenRequest(name, prompt, params, **details)


def alone() -> TokenRequest:
    """One of which nothing is to be generated."""
    asked = request()
    return replace(asked, params=replace(asked.params, max_tokens=0))


def prefilling(driver: Driver, **details: Any) -> Generation:
    """One whose batch has been sent."""
    generation = driver.scheduler.submit(request(**details))
    (reserve,) = driver.commands(Reserve)
    assert reserve.params.prompt_logprobs == 0
    driver.grant(generation)
    assert len(driver.commands(PrefillBatch)) == 1
    return generation


def first_token(generation: Generation, scores: LogprobColumns | None = SCORES) -> FirstToken:
    return FirstToken(generation.sequence_id, 4, 50, None, prompt_logprobs=scores)


def step(
    generation: Generation,
    position: int,
    reason: FinishReason | None = None,
    computed: tuple[ComputedPrompt, ...] = (),
) -> StepDone:
    """In which a token comes."""
    columns = (generation.sequence_id,), (position,), (46 + position,), (reason,)
    return StepDone(1, 0, 0, *columns, computed=computed)


def test_a_prompt_comes_once_before_its_answer() -> None:
    driver = Driver()
    generation = prefilling(driver)
    driver.scheduler.report("p", first_token(generation))
    assert driver.events() == [SCORED, Token(4, 50)]
    driver.scheduler.report("p", first_token(generation))
    driver.scheduler.report("d", Armed(generation.sequence_id, 4, 50, 0))
    driver.scheduler.report("d", step(generation, 5))
    assert driver.events() == [Token(5, 51)]


def test_a_prompt_alone_needs_no_room_for_an_answer_and_ends_with_it() -> None:
    """Whatever comes with it."""
    driver = Driver(self_check_rate=1.0)
    driver.join("p", WorkerRole.PREFILL, model=WHOLE_MODEL)
    generation = driver.scheduler.submit(alone())
    ((chunk,),) = (each.chunks for each in driver.commands(PrefillBatch))
    assert (len(chunk.token_ids), chunk.sequence.destination) == (4, None)
    ended = replace(first_token(generation), finish_reason=FinishReason.STOP)
    driver.scheduler.report("p", ended)
    effects = driver.effects()
    assert [each.event for each in effects if isinstance(each, Emit)] == [
        SCORED,
        Ended(FinishReason.LENGTH, ServedBy("p", "")),
    ]
    assert [each for each in effects if isinstance(each, Send)] == [
        Send("p", Remove(generation.sequence_id))
    ]


def test_its_tokens_are_its_streams_first() -> None:
    tokens = SCORED.tokens(0, 256)
    assert [(each.position, each.token_id) for each in tokens] == [(0, 5), (1, 6), (2, 7), (3, 8)]
    assert [each.logprobs and each.logprobs.logprob for each in tokens] == [None, -1.0, -2.0, -3.0]
    assert SCORED.tokens(0, 2) + SCORED.tokens(2, 4) == tokens


def test_an_answer_waits_for_its_prompt() -> None:
    """The decode worker may be the first to tell of it, and may even be done with it."""
    driver = Driver()
    generation = prefilling(driver)
    driver.scheduler.report("d", Armed(generation.sequence_id, 4, 50, 0))
    driver.scheduler.report("d", step(generation, 5))
    driver.scheduler.report("d", step(generation, 6, FinishReason.STOP))
    assert driver.effects() == []
    driver.scheduler.report("p", first_token(generation))
    *told, ended = driver.events()
    assert told == [SCORED, Token(4, 50), Token(5, 51), Token(6, 52)]
    assert isinstance(ended, Ended)
    driver.scheduler.report("p", TransferDone(generation.sequence_id, 9))
    assert driver.commands(Remove, "p") == [Remove(generation.sequence_id)]


def lose_prefill_worker(driver: Driver, generation: Generation) -> None:
    driver.scheduler.worker_lost("p", LOST)


def lose_its_record(driver: Driver, generation: Generation) -> None:
    driver.scheduler.resumed("p", PrefillSnapshot((), (), ()), [])


def fail_there(driver: Driver, generation: Generation) -> None:
    driver.scheduler.report("p", SequenceFailed(generation.sequence_id, "UNAVAILABLE", "gone"))


def preempt(driver: Driver, generation: Generation) -> None:
    driver.scheduler.report("d", Preempted(generation.sequence_id))


def lose_decode_worker(driver: Driver, generation: Generation) -> None:
    driver.join("e", WorkerRole.DECODE)
    driver.scheduler.worker_lost("d", LOST)


@pytest.mark.parametrize(
    "lose",
    [lose_prefill_worker, lose_its_record, fail_there, preempt, lose_decode_worker],
)
def test_an_answer_whose_prompt_is_lost_begins_again(lose: Any) -> None:
    driver = Driver()
    driver.join("q", WorkerRole.PREFILL)
    generation = prefilling(driver)
    driver.scheduler.report("d", Armed(generation.sequence_id, 4, 50, 0))
    driver.scheduler.report("d", step(generation, 5))
    assert driver.effects() == []
    lose(driver, generation)
    (reserve,) = driver.commands(Reserve)
    assert (reserve.sequence_id, reserve.params.prompt_logprobs) == (generation.sequence_id, 0)
    assert reserve.generated_token_ids == ()
    worker = generation.decode_worker
    driver.grant(generation, worker)
    assert len(driver.commands(PrefillBatch)) == 1
    driver.scheduler.report(generation.prefill_worker, first_token(generation))
    driver.scheduler.report(worker, Armed(generation.sequence_id, 4, 50, 0))
    driver.scheduler.report(worker, step(generation, 5))
    assert driver.events() == [SCORED, Token(4, 50), Token(5, 51)]


def test_what_is_told_of_a_prompt_is_not_asked_for_again() -> None:
    driver = Driver()
    generation = prefilling(driver)
    driver.scheduler.report("p", first_token(generation))
    driver.scheduler.worker_lost("p", LOST)
    driver.join("q", WorkerRole.PREFILL)
    (reserve,) = driver.commands(Reserve)
    assert (reserve.params.prompt_logprobs, reserve.generated_token_ids) == (None, (50,))
    driver.grant(generation)
    ((chunk,),) = (each.chunks for each in driver.commands(PrefillBatch))
    assert chunk.sequence.params == replace(generation.request.params, prompt_logprobs=None)


def test_who_is_cancelled_before_its_prompt_is_told_is_told_nothing_more() -> None:
    driver = Driver()
    generation = prefilling(driver)
    sequence_id = generation.sequence_id
    driver.scheduler.report("d", Armed(sequence_id, 4, 50, 0))
    driver.scheduler.cancel(generation)
    assert driver.commands(Remove, "p") == [Remove(sequence_id)]
    driver.scheduler.report("p", first_token(generation))
    driver.scheduler.report("p", SequenceFailed(sequence_id, "UNAVAILABLE", "gone"))
    assert driver.effects() == []
    assert generation.phase is Phase.ENDED


@NOT_ALL
def test_a_worker_that_does_not_tell_all_of_a_prompt_fails_its_request(
    scores: LogprobColumns | None, error: type[Exception]
) -> None:
    """As one of an earlier version, which knows nothing of it."""
    driver = Driver()
    generation = prefilling(driver)
    driver.scheduler.report("p", first_token(generation, scores))
    (event,) = driver.events()
    assert type(event) is error
    assert driver.scheduler._fleet.prefill["p"].generations == {}


def test_a_chunk_comes_with_the_token_behind_it() -> None:
    driver = Driver()
    prompt = tuple(range(100))
    for name, is_asked in (("r", True), ("s", False)):
        asked = request(name, prompt)
        if not is_asked:
            asked = replace(asked, params=replace(asked.params, prompt_logprobs=None))
        generation = driver.scheduler.submit(asked)
        driver.effects()
        driver.grant(generation)
        (batch, later) = driver.commands(PrefillBatch)
        (first,), (last,) = batch.chunks, later.chunks
        assert (first.end, first.next_token_id) == (64, 64 if is_asked else None)
        assert (last.end, last.next_token_id) == (100, None)
        assert tuple(first.following_ids) == tuple(range(1, 65 if is_asked else 64))
        assert tuple(first.up_to(16).following_ids) == tuple(range(1, 17))
        assert first.without(16).following_ids == first.following_ids[16:]
        driver.scheduler.cancel(generation)
        driver.scheduler.resumed("p", PrefillSnapshot((), (), ()), [])
        driver.effects()


def cache(driver: Any, worker_id: str, prompt: tuple[int, ...]) -> None:
    """The worker has all of a prompt's blocks cached."""
    digests = PromptPrefix((*prompt, 0), BLOCK_SIZE, b"").digests()
    worker = driver.scheduler._fleet.of(worker_id)
    worker.prefix_index.apply(CacheChanges(tuple(digests), (), whole=True))


@pytest.mark.parametrize("is_asked", [False, True])
def test_nothing_of_a_prompt_is_expected_to_be_cached(is_asked: bool) -> None:
    driver = Driver()
    prompt = (5,) * 48
    cache(driver, "p", prompt)
    asked = request(prompt=prompt)
    if not is_asked:
        asked = replace(asked, params=replace(asked.params, prompt_logprobs=None))
    generation = driver.scheduler.submit(asked)
    assert driver.scheduler.num_queued_tokens == (48 if is_asked else 4)
    driver.effects()
    assert generation.expected_cached_tokens == (0 if is_asked else 44)
    assert sum(driver.scheduler._fleet.prefill["p"].queued_batches) == (48 if is_asked else 4)


@pytest.mark.parametrize("is_asked", [False, True])
def test_a_prompt_does_not_wait_for_one_that_begins_alike(is_asked: bool) -> None:
    driver = Local(prefill=True, num_running=0)
    prompt = (5,) * 320
    for name in ("r", "s"):
        asked = request(name, prompt)
        if not is_asked:
            asked = replace(asked, params=replace(asked.params, prompt_logprobs=None))
        driver.scheduler.submit(asked)
    driver.effects()
    assert len(driver.scheduler._queue._shared) == (0 if is_asked else 1)


# On a decode worker


def computing(driver: Colocated) -> Generation:
    """One that the decode worker computes."""
    generation = driver.scheduler.submit(request())
    assert len(driver.admitted()) == 1
    driver.grant(generation)
    driver.effects()
    return generation


def compute(
    driver: Colocated, generation: Generation, scores: LogprobColumns | None = SCORES
) -> None:
    """The worker is through with its prompt, and tells of that what it does."""
    if scores is not None:
        driver.scheduler.report("d0", PromptScores(generation.sequence_id, scores))
    computed = ComputedPrompt(generation.sequence_id, TIMES)
    driver.scheduler.report("d0", step(generation, 4, computed=(computed,)))


def events(driver: Colocated) -> list[Any]:
    return [each.event for each in driver.effects() if isinstance(each, Emit)]


def test_a_decode_worker_tells_of_the_prompts_that_it_computes() -> None:
    driver = Colocated()
    generation = computing(driver)
    compute(driver, generation)
    driver.scheduler.report("d0", step(generation, 5))
    assert events(driver) == [SCORED, Token(4, 50), Token(5, 51)]


def test_a_decode_worker_needs_no_room_for_an_answer_to_tell_of_a_prompt_alone() -> None:
    driver = Colocated(num_workers=0, num_blocks=1)
    driver.join("d0", WorkerRole.DECODE, model=WHOLE_MODEL)
    generation = driver.scheduler.submit(alone())
    assert len(driver.admitted()) == 1
    driver.grant(generation)
    compute(driver, generation)
    assert events(driver) == [SCORED, Ended(FinishReason.LENGTH, ServedBy("d0", "d0"))]
    assert driver.scheduler._fleet.decode["d0"].generations == {}


@NOT_ALL
def test_a_decode_worker_that_does_not_tell_all_of_a_prompt_fails_its_request(
    scores: LogprobColumns | None, error: type[Exception]
) -> None:
    driver = Colocated()
    generation = computing(driver)
    compute(driver, generation, scores)
    (event,) = events(driver)
    assert type(event) is error


@pytest.mark.parametrize("is_known", [False, True])
def test_what_it_told_while_it_was_not_heard_is_in_its_snapshot(is_known: bool) -> None:
    driver = Colocated()
    generation = computing(driver)
    if is_known:
        compute(driver, generation)
        assert events(driver) == [SCORED, Token(4, 50)]
    grant = Reserved(generation.sequence_id, b"x", 1, 0)
    held = SequenceSnapshot(generation.sequence_id, grant, 4, (50, 51), None, (), SCORES)
    driver.scheduler.resumed("d0", DecodeSnapshot((held,)), [])
    assert events(driver) == ([] if is_known else [SCORED, Token(4, 50)]) + [Token(5, 51)]


def test_a_snapshot_from_before_a_prompt_is_computed_says_nothing_of_it() -> None:
    driver = Colocated()
    generation = computing(driver)
    grant = Reserved(generation.sequence_id, b"x", 1, 0)
    held = SequenceSnapshot(generation.sequence_id, grant, 4, (), None)
    driver.scheduler.resumed("d0", DecodeSnapshot((held,)), [])
    assert events(driver) == []
    compute(driver, generation)
    assert events(driver) == [SCORED, Token(4, 50)]


def test_a_snapshot_says_nothing_of_a_prompt_that_is_computed_elsewhere() -> None:
    driver = Driver()
    generation = prefilling(driver)
    grant = Reserved(generation.sequence_id, b"x", 1, 0)
    held = SequenceSnapshot(generation.sequence_id, grant, 4, (50, 51), None)
    driver.scheduler.resumed("d", DecodeSnapshot((held,)), [])
    assert driver.effects() == []
    driver.scheduler.report("p", first_token(generation))
    assert driver.events() == [SCORED, Token(4, 50), Token(5, 51)]


def test_a_snapshot_without_them_fails_a_request_that_waits_for_them() -> None:
    driver = Colocated()
    generation = computing(driver)
    grant = Reserved(generation.sequence_id, b"x", 1, 0)
    held = SequenceSnapshot(generation.sequence_id, grant, 4, (50,), None)
    driver.scheduler.resumed("d0", DecodeSnapshot((held,)), [])
    (event,) = events(driver)
    assert type(event) is Mismatch
