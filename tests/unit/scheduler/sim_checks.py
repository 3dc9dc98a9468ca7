"""What must hold in the simulation, whatever happens."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from sim_client import Client
from sim_system import System
from sim_worker import PrefillProcess, Process

from gateway.decode_view import DecodeView
from gateway.effects import CheckResult
from gateway.generation import Generation, Phase
from gateway.prefill_view import MAX_BATCHES, PrefillView
from gateway.tokens import Ended
from tandem.core.errors import Cancelled, DeadlineExceeded, RateLimitExceeded, TandemError


def check_refusal(system: System, client: Client, refusal: TandemError) -> None:
    """Who is refused, is for a reason."""
    tenant, has_deadline = client.request.tenant, client.request.deadline_s < inf
    match refusal:
        case RateLimitExceeded():
            open_clients = [it for it in system.open_clients() if it.request.tenant == tenant]
            assert len(open_clients) == system.tenants[tenant].max_requests
        case DeadlineExceeded():
            assert has_deadline
        case _:
            assert has_deadline or not system.scheduler.is_ready


def check_loss(system: System, how: Callable[[], None]) -> None:
    """A loss costs nothing to generations that may be tried again."""
    waiting = [
        client
        for client in system.open_clients()
        if client.generation and client.generation.can_restart
    ]
    how()
    for client in waiting:
        if isinstance(client.outcome, DeadlineExceeded):
            continue
        assert client.outcome is None, f"{client.request.request_id} fails, and need not"


def check_drain(system: System, how: Callable[[], object]) -> None:
    """A drain is no loss, and costs nobody anything."""
    losses = {
        each: each.generation.setbacks.num_losses
        for each in system.open_clients()
        if each.generation
    }
    how()
    for client, num_losses in losses.items():
        assert client.outcome is None or isinstance(client.outcome, DeadlineExceeded)
        assert client.generation and client.generation.setbacks.num_losses == num_losses


def check_views(system: System) -> None:
    """No worker is given more than it can take, as the scheduler sees it."""
    running = system.scheduler._self_checks._running
    for view in system.scheduler.workers:
        assert not (view.generations and view.info.worker_id in running), "in the way"
        assert view.num_used_blocks >= 0
        assert system.prefix_caching or view.num_used_blocks <= view.info.num_blocks
        assert len(view.generations) <= view.info.max_num_seqs
        if isinstance(view, DecodeView):
            own = view.own_prompts._prompts.values()
            assert view.num_prompt_tokens_left == sum(each.num_tokens_left for each in own)
            assert view.num_running == sum(each.armed for each in view.generations.values())
            assert view.own_prompts._patient_until_s.keys() <= view.own_prompts._prompts.keys()
        if isinstance(view, PrefillView):
            assert len(view.batches) <= MAX_BATCHES
            left = {each for each in view.generations.values() if each.num_tokens_left}
            assert left == set(view.started.values())
            assert not (view.forming and len(view.batches) == MAX_BATCHES)


def check_waiting(system: System) -> None:
    """Who waits for another does so as long as that is on its way, and no longer."""
    shared = system.scheduler._queue._shared
    for generation, leader in shared._leader_of.items():
        assert generation.phase is Phase.QUEUED
        assert leader.generation.phase in {Phase.RESERVING, Phase.PREFILLING}
    assert sum(shared.num_waiting.values()) == len(shared)


def check_quiet(system: System) -> None:
    """Nothing goes on any more: everybody was served, and nothing is left anywhere."""
    assert len(system.clients) == system.num_to_come
    for client in system.clients.values():
        assert client.outcome is not None, f"{client.request.request_id} hangs"
        _check_outcome(system, client)
    assert not system.dispatcher._streams
    assert not system.open_transfers()
    assert not system.scheduler._queue._shared._leaders
    _check_self_checks(system)
    for tenant in system.tenants:
        # Nobody got more back than was charged.
        assert system.scheduler._lifecycle._shares.counter(tenant) > -1e-6
    for view in system.scheduler.workers:
        assert view.num_used_blocks == 0
        assert not isinstance(view, DecodeView) or view.num_running == 0
        assert not view.generations
        assert not system.scheduler.next_deadline_s < inf
        if isinstance(view, PrefillView):
            assert not any(view.bound_blocks.values())
            assert view.forming is None
            assert not view.batches
        if isinstance(view, DecodeView):
            assert not view.num_refused_blocks
            assert not any((*view.tenant_seqs.values(), *view.tenant_blocks.values()))
            assert not view.asked_blocks
            assert not view.shared_blocks
    for link in system.links:
        _check_process(link.process)


def _check_self_checks(system: System) -> None:
    """Each answer that there is was checked, if they are, and none was found to be wrong."""
    answers = {
        (client.request.request_id, client.request.choice_index)
        for client in system.clients.values()
        if client.tokens and isinstance(client.outcome, Ended | Cancelled)
    }
    checked = [(each.request_id, each.choice_index) for each in system.dispatcher.checked]
    assert sorted(checked) == sorted(answers if system.self_check_rate else ())
    faults = system.faults
    may_fail = faults.rate > 0 and (faults.engine_failures or faults.breaks or faults.losses)
    results = {CheckResult.SAME, CheckResult.FAILED} if may_fail else {CheckResult.SAME}
    assert {each.result for each in system.dispatcher.checked} <= results


def _check_outcome(system: System, client: Client) -> None:
    """Who was not cancelled has all tokens, or lost workers, steps or KV on its way so often that
    it was given up, or may be why steps failed."""
    if client.generation is None or isinstance(client.outcome, Ended) or client.cancelled:
        return
    if isinstance(client.outcome, DeadlineExceeded):
        return
    given_up = not client.generation.can_restart or _fails_steps(system, client.generation)
    assert given_up, f"{client.request.request_id} failed without a cause: {client.outcome!r}"


def _fails_steps(system: System, generation: Generation) -> bool:
    """Whether it was in two failed steps, and since the first in none that was well but such as
    computed its context, one an attempt."""
    attempts = generation.attempts.kept
    failed = [index for index, each in enumerate(attempts) if each.sequence_id in system.failed_ids]
    return len(failed) > 1 and all(each.num_tokens <= 1 for each in attempts[failed[-2] + 1 :])


def _check_process(process: Process) -> None:
    assert process.state.num_free_blocks == process.info.num_blocks
    snapshot = process.state.snapshot()
    if isinstance(process, PrefillProcess):
        assert snapshot.sequence_ids == snapshot.batch_ids == snapshot.reports == ()
    else:
        assert snapshot.sequences == ()
