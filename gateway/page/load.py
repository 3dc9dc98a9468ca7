"""How much the workers have to do, read off the scheduler and the figures of the last seconds."""

from __future__ import annotations

from gateway.scheduler import Scheduler
from tandem.core.bottleneck import Load, RoleLoad
from tandem.core.pipeline import PipelineFigures
from tandem.core.worker import WorkerRole


def load_of(scheduler: Scheduler, figures: PipelineFigures, num_in_flight: int) -> Load:
    """The load, of which `num_in_flight` generations have not ended."""
    roles = {role: _role_load(role, scheduler, figures) for role in WorkerRole}
    missing = (role.name.lower() for role in scheduler.roles if not roles[role].num_open)
    return Load(
        roles[WorkerRole.PREFILL],
        roles[WorkerRole.DECODE],
        num_queued=scheduler.num_queued,
        num_in_flight=num_in_flight,
        sending_share=sending_share(figures, roles[WorkerRole.PREFILL].num_open),
        exposed_share=1.0 - figures.transfers.hidden_share,
        missing=next(missing, ""),
    )


def sending_share(figures: PipelineFigures, num_senders: int) -> float:
    """For what share of the makespan a sender has KV on its way, on average. 0 without senders,
    bytes or steps."""
    transfers = figures.transfers
    if not num_senders or not transfers.bytes_per_s or not figures.makespan_ns:
        return 0.0
    sending_ns = transfers.num_bytes / transfers.bytes_per_s * 1e9
    return sending_ns / (num_senders * figures.makespan_ns)


def _role_load(role: WorkerRole, scheduler: Scheduler, figures: PipelineFigures) -> RoleLoad:
    """That of the role's workers that may be given something new."""
    workers = [each for each in scheduler.workers if each.info.role is role and each.is_open]
    names = {each.info.worker_id for each in workers}
    busy = [lane.busy_share for lane in figures.lanes if lane.worker_id in names]
    num_blocks = sum(each.info.num_blocks for each in workers)
    num_free = sum(each.num_free_blocks for each in workers)
    return RoleLoad(
        num_open=len(workers),
        busy_share=sum(busy) / max(1, len(busy)),
        num_sequences=sum(len(each.generations) for each in workers),
        num_places=sum(each.info.max_num_seqs for each in workers),
        used_share=(num_blocks - num_free) / max(1, num_blocks),
    )
