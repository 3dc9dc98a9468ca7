"""Worker processes of the simulation: the real states and fake engines, run by hand.

What the threads and the event loop of a real worker do at times of their own, the simulation does
in calls: `launch` and `land` are the two ends of a step, `apply` is a message that came.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from decode_service.kv_mover import carry_out
from decode_service.parking import KvMove
from decode_service.standing_plan import StandingPlan
from prefill_service.batch_queue import BatchQueue
from prefill_service.transfers import Transfers
from tandem.core.commands import Admit, DecodeCommand, PrefillCommand, Remove, Reserve, SetStepRule
from tandem.core.errors import EngineFailed
from tandem.core.kv import KVLayout
from tandem.core.plan import StepPlan, StepResult, StepRule
from tandem.core.sequence import EndRule
from tandem.core.worker import ModelInfo, WorkerInfo, WorkerRole
from tandem.engine.fake.content import fake_layout
from tandem.engine.fake.engine import FakeEngine
from tandem.engine.fake.profiles import parse_profile

BLOCK_SIZE = 4
VOCAB_SIZE = 1000
MAX_MODEL_LEN = 20
EOS_TOKEN_IDS = frozenset(range(0, VOCAB_SIZE, 25))
MODEL = ModelInfo(
    "sim", "f" * 64, VOCAB_SIZE, MAX_MODEL_LEN, EOS_TOKEN_IDS, "fake", batch_invariant=True
)
# For those that are made up without a simulation, and have sequences of any length.
LONG_MODEL = replace(MODEL, max_model_len=1_000_000)
END_RULE = EndRule(EOS_TOKEN_IDS, MAX_MODEL_LEN)
LAYOUT: KVLayout = fake_layout(BLOCK_SIZE)


class NoTime:
    """A clock for engines that take no time."""

    def now(self) -> float:
        return 0.0

    def sleep_until(self, when: float) -> None:
        raise AssertionError("a step of the zero profile slept")


def worker_info(
    worker_id: str,
    role: WorkerRole,
    epoch: int,
    num_blocks: int,
    max_num_seqs: int,
    model: ModelInfo = LONG_MODEL,
) -> WorkerInfo:
    return WorkerInfo(worker_id, role, epoch, model, LAYOUT, num_blocks, max_num_seqs, "mock:zero")


@dataclass(eq=False)
class Process:
    """One life of a worker process. `runnable`: its engine thread has been notified. `steps` are
    the prompt tokens of the steps that were not told of yet. `draining_ms`: it is about to end."""

    info: WorkerInfo
    alive: bool = True
    has_lease: bool = False
    applied_command: int = 0
    runnable: bool = False
    news: bool = False
    steps: list[int] = field(default_factory=list)
    draining_ms: int | None = None
    state: Any = field(init=False)

    def __post_init__(self) -> None:
        self.engine = FakeEngine(
            MODEL,
            profile=parse_profile("zero"),
            block_size=BLOCK_SIZE,
            num_blocks=self.info.num_blocks,
            output_token_ids=(0, VOCAB_SIZE),
            clock=NoTime(),
        )
        self._plan: StepPlan | None = None
        self._result: StepResult | None = None

    # The event loop's side, as `tandem.worker.worker.Worker` does it.

    def act(self, change: Callable[..., None], *args: object) -> None:
        change(*args)
        self.runnable = self.news = True

    def apply(self, number: int, commands: Sequence[Any]) -> None:
        assert number == self.applied_command + 1, "commands were lost on the way"
        self.applied_command = number
        for command in commands:
            self.act(self._apply, command)

    def clear(self) -> None:
        self.applied_command = 0
        self.act(self.state.clear)

    def _apply(self, command: Any) -> None:
        self.state.apply(command)

    # The engine thread's side, as `StepLoop` does it.

    @property
    def is_stepping(self) -> bool:
        return self._plan is not None

    def launch(self, compute_at_once: bool) -> None:
        """Begin the next step, if there is one. Its computing is done now, or when it lands: both
        are within the step."""
        self._plan, self._result = self.state.next_step(), None
        if self._plan is None:
            self.runnable = False
            return
        self._check(self._plan)
        if compute_at_once:
            self._result = self._compute(self._plan)

    def land(self) -> None:
        plan, self._plan = self._plan, None
        assert plan is not None
        is_held = self.state._allocator.is_held
        for each in plan.slices:
            assert all(map(is_held, each.block_table)), "freed under a step"
        result = self._result or self._compute(plan)
        self.steps.append(plan.num_prefill_tokens)
        self.act(self.state.complete, plan, result, 0, 0)

    def fail(self) -> set[int]:
        """The engine fails in a step: of which sequences."""
        plan, self._plan = self._plan, None
        assert plan is not None
        self.act(self.state.fail, plan, EngineFailed("the engine failed"))
        return {each.sequence_id for each in plan.slices}

    def _compute(self, plan: StepPlan) -> StepResult:
        return self.engine.launch(plan, self.state.layer_hook(plan)).result()

    def _check(self, plan: StepPlan) -> None:
        ids = [each.sequence_id for each in plan.slices]
        assert len(ids) == len(set(ids)), "a sequence is in a step twice"


class PrefillProcess(Process):
    """A prefill worker."""

    state: BatchQueue

    def __init__(self, info: WorkerInfo, transfers: Transfers) -> None:
        super().__init__(info)
        self.state = BatchQueue(
            layout=LAYOUT,
            num_blocks=info.num_blocks,
            end_rule=info.model.end_rule,
            transfers=transfers,
            prefix_caching=info.caches_prefixes,
        )
        self.removed: set[int] = set()

    def _apply(self, command: PrefillCommand) -> None:
        super()._apply(command)
        if isinstance(command, Remove):
            self.removed.add(command.sequence_id)

    def _check(self, plan: StepPlan) -> None:
        super()._check(plan)
        for each in plan.slices:
            assert each.sequence_id not in self.removed, "a removed sequence runs"
            assert each.start % BLOCK_SIZE == 0
            assert each.sample is not None or each.end % BLOCK_SIZE == 0


class DecodeProcess(Process):
    """A decode worker. `end_of(request_id)`: the sequence length with which a request ends."""

    state: StandingPlan

    def __init__(
        self,
        info: WorkerInfo,
        end_of: Callable[[str], int],
        max_parked_bytes: int,
    ) -> None:
        super().__init__(info)
        self.moves: list[KvMove] = []
        self.state = StandingPlan(
            layout=LAYOUT,
            num_blocks=info.num_blocks,
            max_num_seqs=info.max_num_seqs,
            end_rule=END_RULE,
            clock_ns=lambda: 0,
            prefix_caching=info.caches_prefixes,
            mover=self,
            max_parked_bytes=max_parked_bytes,
        )
        self.num_parked = 0
        self.armed: set[int] = set()
        self.computed: set[int] = set()
        self.removed: set[int] = set()
        self.rule: StepRule | None = None
        self._end_of = end_of
        self._request_ids: dict[int, str] = {}
        self._headroom: dict[int, int] = {}

    def start(self, move: KvMove) -> None:
        """As a `Mover`."""
        self.moves.append(move)

    def move(self) -> None:
        """The oldest move of KV is carried out."""
        move = self.moves.pop(0)
        self.num_parked += move.copy is None
        self.act(self.state.moved, move, carry_out(move, self.engine.pool), 1e-9)

    def fail_move(self) -> None:
        self.act(self.state.moved, self.moves.pop(0), None, 1e-9)

    def _apply(self, command: DecodeCommand) -> None:
        super()._apply(command)
        if isinstance(command, Reserve):
            self._request_ids[command.sequence_id] = command.key.request_id
            self._headroom[command.sequence_id] = command.headroom_tokens
        elif isinstance(command, Remove):
            self.removed.add(command.sequence_id)
        elif isinstance(command, SetStepRule):
            self.rule = command.rule
        elif isinstance(command, Admit) and command.compute:
            self.computed.add(command.sequence_id)

    def _check(self, plan: StepPlan) -> None:
        super()._check(plan)
        if self.rule:
            is_idle = plan.num_prefill_tokens == plan.num_tokens
            assert plan.num_prefill_tokens <= self.rule.budget(is_idle)
            assert self.rule.mixed or plan.num_prefill_tokens in (0, plan.num_tokens)
        for each in plan.slices:
            known = self.armed | self.computed
            assert each.sequence_id in known, "a sequence runs before it is armed"
            assert each.sequence_id not in self.removed, "a removed sequence runs"
            end = self._end_of(self._request_ids[each.sequence_id])
            assert each.end < end, "a sequence runs on after its end"
        for held in self.state._held.values():
            sequence = held.sequence
            num_unused = len(held.blocks.ids) * BLOCK_SIZE - sequence.length
            # A step under way, and one behind it, have tokens that are not in the sequence yet.
            num_ahead = max(2, self._headroom[sequence.sequence_id])
            assert num_unused < BLOCK_SIZE + num_ahead, "more blocks than it was promised or needs"
