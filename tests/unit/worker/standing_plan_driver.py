"""A standing plan with shorthands, for its tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from decode_service.parking import KvCopy, KvMove
from decode_service.standing_plan import StandingPlan
from tandem.core.commands import Admit, Reserve
from tandem.core.kv import KVLayout
from tandem.core.plan import StepPlan, StepResult
from tandem.core.reports import DecodeReport, Reserved, StepDone
from tandem.core.sampling_params import SamplingParams
from tandem.core.sequence import EndRule, SequenceKey

LAYOUT = KVLayout(num_layers=1, num_kv_heads=1, head_dim=1, block_size=4, dtype="uint16")
EOS = 2
STOP = 7


class Moves(list[KvMove]):
    """A `Mover` that only takes notes."""

    def start(self, move: KvMove) -> None:
        self.append(move)


class Plan(StandingPlan):
    """With shorthands."""

    def __init__(
        self,
        num_blocks: int = 8,
        max_num_seqs: int = 4,
        max_model_len: int = 100,
        prefix_caching: bool = False,
        max_parked_bytes: int = 0,
    ) -> None:
        self.moves = Moves()
        super().__init__(
            layout=LAYOUT,
            num_blocks=num_blocks,
            max_num_seqs=max_num_seqs,
            end_rule=EndRule(frozenset({EOS}), max_model_len),
            clock_ns=lambda: 5,
            prefix_caching=prefix_caching,
            mover=self.moves,
            max_parked_bytes=max_parked_bytes,
        )
        self.grants: dict[int, Reserved] = {}

    def move(self, seconds: float = 1.0) -> None:
        """The oldest move is over."""
        move = self.moves.pop(0)
        self.moved(move, move.copy or KvCopy(move.num_tokens, {}), seconds)

    def reserve(
        self,
        sequence_id: int = 1,
        length: int = 5,
        headroom: int = 3,
        max_tokens: int = 50,
        prompt: tuple[int, ...] | None = None,
        prefix_salt: bytes = b"",
        preemption_rank: tuple[float, ...] = (),
        **params: Any,
    ) -> list[DecodeReport]:
        """Of a prompt of `length` tokens, which all begin alike, or of this one."""
        params = SamplingParams(
            max_tokens=max_tokens, seed=0, stop_token_ids=frozenset({STOP}), **params
        )
        key = SequenceKey(f"r{sequence_id}")
        prompt = tuple(range(length)) if prompt is None else prompt
        reserve = Reserve(
            sequence_id,
            key,
            prompt,
            headroom,
            params,
            prefix_salt,
            preemption_rank=preemption_rank,
        )
        self.apply(reserve)
        reports = self.reports.take()
        for report in reports:
            if isinstance(report, Reserved):
                self.grants[sequence_id] = report
        return reports

    def compute(self, sequence_id: int = 1, **details: Any) -> None:
        """Reserve, and have the prompt computed here."""
        self.reserve(sequence_id, **details)
        self.apply(Admit(sequence_id, compute=True))

    def arm(self, sequence_id: int = 1, first_token_id: int = 50) -> None:
        grant = self.grants[sequence_id]
        reservation = self.reservation(grant.transfer_id, grant.epoch)
        reservation.first_token_id = first_token_id
        self.reservation_complete(reservation)

    def run(self, sequence_id: int = 1, **details: Any) -> None:
        """Reserve, admit and arm."""
        self.reserve(sequence_id, **details)
        self.apply(Admit(sequence_id))
        self.arm(sequence_id)
        self.reports.take()

    def start(self) -> StepPlan:
        plan = self.next_step()
        assert plan is not None
        return plan

    def done(self, plan: StepPlan, *token_ids: int) -> list[DecodeReport]:
        self.complete(plan, StepResult(token_ids), 10, 20)
        return self.reports.take()


def ids(plan: StepPlan | None) -> list[int]:
    return [each.sequence_id for each in plan.slices] if plan else []


def the_step(reports: Sequence[DecodeReport]) -> StepDone:
    (step,) = reports
    assert isinstance(step, StepDone)
    return step
