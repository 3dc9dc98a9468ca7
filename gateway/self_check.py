"""Self-checks: a sample of the answers is generated once more by decode workers, and compared.

A checksum tells of KV that came damaged. What an engine computes wrongly without failing, and KV
that was wrong before it had a checksum, nothing tells of but its outcome. So one decode worker is
asked for a sampled answer anew, with the same seed and parameters: it computes the prompt itself,
and takes nothing from its cache, since the salt of a check is its own. Where the engines are batch
invariant, another token at any position is an error.

A check runs where nothing else does, one on a worker, and gives way: before anything is reserved
there for a request, and whenever something is left in the queue. It goes on later, behind the
tokens that were the same. So it costs a request the rest of one step at the most. Few wait, and of
these the oldest is dropped for a new one.
"""

from __future__ import annotations

import hashlib
import secrets
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from math import inf

from gateway.decode_view import DecodeView
from gateway.effects import Checked, CheckResult, Outbox
from gateway.fleet import Fleet
from gateway.generation import Generation
from gateway.tokens import Ended, TokenRequest
from tandem.core.commands import Admit, Remove, Reserve
from tandem.core.errors import Cancelled, ResourceExhausted, TandemError
from tandem.core.reports import DecodeReport, Preempted, SequenceFailed
from tandem.core.sequence import SequenceKey
from tandem.core.worker import ModelInfo

# Waiting and running.
MAX_CHECKS = 64
SALT_BYTES = 32
# The first to give its blocks up, whatever the policy.
PREEMPTION_RANK = (inf,)


@dataclass(slots=True, eq=False)
class Check:
    """An answer, and how many of its tokens came once more. `computed_by` are the workers that it
    was on; it may have read KV of all that run one of `models`. Its sequence has another number
    each time that it goes on."""

    request: TokenRequest
    token_ids: tuple[int, ...]
    computed_by: tuple[str, ...]
    models: frozenset[ModelInfo]
    num_same: int = 0
    sequence_id: int = 0
    salt: bytes = field(default_factory=lambda: secrets.token_bytes(SALT_BYTES))

    @property
    def length(self) -> int:
        """Tokens of the prompt and the answer."""
        return len(self.request.prompt_token_ids) + len(self.token_ids)

    @property
    def position(self) -> int:
        """That of the token to come."""
        return len(self.request.prompt_token_ids) + self.num_same

    def fits(self, worker: DecodeView) -> bool:
        """Whether a worker that has nothing else to do has room for it now."""
        has_blocks = worker.blocks_for(self.length) <= worker.num_free_blocks
        return has_blocks and self.length <= worker.info.model.max_model_len

    def must_agree_with(self, worker: DecodeView) -> bool:
        """Whether a worker has to come to the same tokens."""
        models = {*self.models, worker.info.model}
        is_invariant = all(each.batch_invariant for each in models)
        return is_invariant and len({each.numerics for each in models}) == 1

    def reserve(self) -> Reserve:
        request, num_tokens = self.request, len(self.token_ids)
        unscored = replace(request.params, logprobs=None, prompt_logprobs=None)
        return Reserve(
            self.sequence_id,
            SequenceKey(request.request_id, request.choice_index),
            request.prompt_token_ids,
            headroom_tokens=self.length - self.position,
            params=replace(unscored, max_tokens=num_tokens),
            prefix_salt=self.salt,
            generated_token_ids=self.token_ids[: self.num_same],
            preemption_rank=PREEMPTION_RANK,
        )

    def checked(self, result: CheckResult, checked_by: str) -> Checked:
        return Checked(
            self.request.request_id,
            self.request.choice_index,
            result,
            self.num_same,
            self.position,
            self.computed_by,
            checked_by,
        )


class SelfChecks:
    """Decides which answers are checked, where and when, and what came of it."""

    def __init__(
        self, rate: float, fleet: Fleet, outbox: Outbox, sequence_ids: Iterator[int]
    ) -> None:
        """`rate` is the share of answers to be checked. Their sequences are numbered from
        `sequence_ids`."""
        self._end_of_sample = int(rate * 2**64)
        self._fleet = fleet
        self._outbox = outbox
        self._sequence_ids = sequence_ids
        self._waiting: deque[Check] = deque()
        # By worker.
        self._running: dict[str, Check] = {}

    @property
    def is_waiting(self) -> bool:
        """Whether there are checks that a worker with room could begin."""
        return bool(self._waiting)

    def ended(self, generation: Generation, event: Ended | TandemError) -> None:
        """A request has ended. If it did so well, or its client left, what it has may be checked:
        the same requests whenever they are asked."""
        if not (isinstance(event, Ended | Cancelled) and generation.token_ids):
            return
        if _place(generation.request) >= self._end_of_sample:
            return
        check = Check(
            generation.request,
            tuple(generation.token_ids),
            generation.attempts.workers,
            self._fleet.kv_models,
        )
        self._waiting.append(check)
        if len(self._waiting) + len(self._running) > MAX_CHECKS:
            dropped = self._waiting.popleft()
            self._outbox.checked(dropped.checked(CheckResult.DROPPED, ""))

    def compose(self, is_anyone_queued: bool) -> None:
        """Begin checks where nothing else is done, and end what is in anybody's way."""
        for worker_id in list(self._running):
            worker = self._fleet.decode[worker_id]
            if worker.suspect:
                self._end(self._running[worker_id], worker, CheckResult.FAILED)
            elif is_anyone_queued or not worker.is_open:
                self.make_way(worker)
        if self._waiting and not is_anyone_queued:
            for worker in self._fleet.decode.values():
                self._begin_one(worker)

    def make_way(self, worker: DecodeView) -> None:
        """A worker has something else to do: its check, if it has one, goes on later."""
        if check := self._running.pop(worker.info.worker_id, None):
            self._outbox.send(worker, Remove(check.sequence_id))
            self._waiting.append(check)

    def lost(self, worker_id: str) -> None:
        """A worker is gone, perhaps because of its check: nobody waits for that, and no other
        worker is to be tried."""
        if check := self._running.pop(worker_id, None):
            self._outbox.checked(check.checked(CheckResult.FAILED, worker_id))

    def token(self, worker: DecodeView, sequence_id: int, token_id: int, is_last: bool) -> None:
        """A worker has generated a token of a sequence that is no request's, or no more."""
        check = self._check_of(worker, sequence_id)
        if check is None:
            return
        if token_id != check.token_ids[check.num_same]:
            is_wrong = check.must_agree_with(worker)
            self._end(check, worker, CheckResult.WRONG if is_wrong else CheckResult.DIFFERS)
            return
        check.num_same += 1
        if check.num_same == len(check.token_ids):
            self._end(check, worker, CheckResult.SAME)
        elif is_last:
            self._end(check, worker, CheckResult.FAILED)

    def report(self, worker: DecodeView, report: DecodeReport) -> None:
        """Something else has happened to such a sequence."""
        match report:
            case SequenceFailed(sequence_id, reason, _):
                has_no_room = reason == ResourceExhausted.reason
            case Preempted(sequence_id, parked=False):
                has_no_room = True
            case _:
                return
        if check := self._check_of(worker, sequence_id):
            if has_no_room:
                self.make_way(worker)
            else:
                self._end(check, worker, CheckResult.FAILED)

    def _begin_one(self, worker: DecodeView) -> None:
        """On a worker that has nothing else to do. Of another's answers, if there are any: it might
        err the same way twice."""
        worker_id = worker.info.worker_id
        if worker.generations or worker_id in self._running or not worker.is_open:
            return
        fitting = (each for each in self._waiting if each.fits(worker))
        check = min(fitting, key=lambda each: worker_id in each.computed_by, default=None)
        if check is None:
            return
        self._waiting.remove(check)
        self._running[worker_id] = check
        check.sequence_id = next(self._sequence_ids)
        self._outbox.send(worker, check.reserve())
        self._outbox.send(worker, Admit(check.sequence_id, compute=True))

    def _check_of(self, worker: DecodeView, sequence_id: int) -> Check | None:
        check = self._running.get(worker.info.worker_id)
        return check if check and check.sequence_id == sequence_id else None

    def _end(self, check: Check, worker: DecodeView, result: CheckResult) -> None:
        del self._running[worker.info.worker_id]
        self._outbox.send(worker, Remove(check.sequence_id))
        self._outbox.checked(check.checked(result, worker.info.worker_id))


def _place(request: TokenRequest) -> int:
    """Where a request stands among all, in [0, 2**64): as good as by chance."""
    name = f"{request.choice_index} {request.request_id}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest())
