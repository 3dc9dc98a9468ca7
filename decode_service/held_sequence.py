"""A sequence on a decode worker."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence as Tokens
from dataclasses import dataclass, field
from typing import NamedTuple

from tandem.core.blocks import SequenceBlocks
from tandem.core.kv import KVLayout
from tandem.core.logprobs import LogprobColumns, TokenLogprobs
from tandem.core.plan import PENDING, SampleSpec, ScoreSpec, SequenceSlice
from tandem.core.prefix import PrefixChain
from tandem.core.prompt_progress import PromptProgress
from tandem.core.reports import Reserved, SequenceSnapshot
from tandem.core.sequence import Sequence
from tandem.transfer.reservation import Reservation


class ToldToken(NamedTuple):
    """A token's log-probabilities, its prompt's with the first one's, and the report of the token,
    which is the last that tells them."""

    report_number: int
    logprobs: TokenLogprobs | None
    scores: LogprobColumns | None


@dataclass(slots=True)
class HeldSequence:
    """A sequence and the blocks it holds here. `context_token_ids` are those of its tokens whose KV
    must be there before it runs: its prompt, and what another attempt at it has generated. It runs
    once it is admitted, that KV is complete (`armed`), and the engine is prepared for it. Once it
    has `ended`, its record is all that may be left. `progress` is that of its context, if it is
    computed here; `prefix` names its blocks.
    `scores` are its prompt's log-probabilities, if they are asked for, as far as it is computed
    here; they are told before the first token. `unacknowledged` are its newest tokens, if
    log-probabilities are asked for: those that the controller may not have."""

    sequence: Sequence
    context_token_ids: Tokens[int]
    blocks: SequenceBlocks
    reservation: Reservation
    grant: Reserved
    sample: SampleSpec
    prefix: PrefixChain
    preemption_rank: tuple[float, ...] = ()
    admitted: bool = False
    armed: bool = False
    ended: bool = False
    progress: PromptProgress = field(default_factory=PromptProgress)
    num_steps_under_way: int = 0
    scores: LogprobColumns | None = None
    unacknowledged: deque[ToldToken] = field(default_factory=deque)

    @property
    def has_logprobs(self) -> bool:
        params = self.sequence.params
        return params.logprobs is not None or params.prompt_logprobs is not None

    def reported(self, report_number: int, logprobs: TokenLogprobs | None) -> None:
        """Its newest token goes into this report, and what there is of its prompt before it."""
        if self.has_logprobs:
            self.unacknowledged.append(ToldToken(report_number, logprobs, self.scores))
            self.scores = None

    def acknowledge(self, report_number: int) -> None:
        while self.unacknowledged and self.unacknowledged[0].report_number <= report_number:
            self.unacknowledged.popleft()

    def compute_here(self) -> None:
        """Its KV does not come from elsewhere."""
        self.progress.num_computed = self.grant.num_cached_tokens
        if self.sequence.params.prompt_logprobs is not None:
            self.scores = LogprobColumns()

    def computed(self, end: int, start_ns: int, scores: LogprobColumns | None) -> bool:
        """A step that began at `start_ns` has computed its context up to the token `end`; whether
        that is all of it."""
        self.progress.stepped(end, start_ns)
        self.armed = end == self.num_context_tokens
        if self.scores is not None and scores is not None:
            self.scores.extend(scores)
        return self.armed

    def snapshot(self, num_open_reports: int) -> SequenceSnapshot:
        """With the tokens that so many reports may have told, the newest: none tells more than one
        of them."""
        num_generated = self.sequence.length - self.num_context_tokens
        num_told = (
            len(self.unacknowledged) if self.has_logprobs else min(num_generated, num_open_reports)
        )
        token_ids = self.sequence.token_ids[len(self.sequence.token_ids) - num_told :]
        return SequenceSnapshot(
            sequence_id=self.sequence.sequence_id,
            reserved=self.grant,
            position=self.sequence.length - len(token_ids),
            token_ids=tuple(token_ids),
            finish_reason=self.sequence.finish_reason,
            logprobs=tuple(each.logprobs for each in self.unacknowledged),
            prompt_logprobs=self._told_scores,
        )

    @property
    def _told_scores(self) -> LogprobColumns | None:
        """Those that the controller may not have: the first token's report has them."""
        return self.unacknowledged[0].scores if self.unacknowledged else None

    @property
    def num_logprobs(self) -> int:
        """Log-probabilities that its snapshot has, those of the likeliest tokens counted in."""
        num_own = len(self.unacknowledged) * (1 + (self.sequence.params.logprobs or 0))
        scores = self._told_scores
        return num_own + scores.num_in_all if scores else num_own

    @property
    def num_stepped_tokens(self) -> int:
        """Its tokens, with those under way: those whose KV is there when its next step is over."""
        return self.sequence.length + self.num_steps_under_way

    @property
    def can_run_ahead(self) -> bool:
        """Whether its next token can be sampled without knowing the one under way."""
        return not self.sequence.params.looks_at_own_tokens(len(self.sequence.token_ids))

    @property
    def is_runnable(self) -> bool:
        return self.admitted and self.armed and not self.ended

    @property
    def preemption_order(self) -> tuple[tuple[float, ...], int]:
        """The highest gives way first: by rank, and of equals who came last."""
        return self.preemption_rank, self.sequence.sequence_id

    @property
    def num_context_tokens(self) -> int:
        return len(self.context_token_ids)

    def next_slice(self, layout: KVLayout) -> SequenceSlice:
        """The next token of a running sequence."""
        end = self.num_stepped_tokens
        last = PENDING if self.num_steps_under_way else self.sequence.token_ids[-1]
        return SequenceSlice(
            sequence_id=self.sequence.sequence_id,
            token_ids=(last,),
            start=end - 1,
            block_table=self.blocks.table(layout.blocks_for(end)),
            sample=self.sample,
            table_id=self.blocks.table_id,
        )

    def chunk(self, end: int, layout: KVLayout) -> SequenceSlice:
        """What is not computed of its context, up to `end`."""
        start = self.progress.num_computed
        return SequenceSlice(
            sequence_id=self.sequence.sequence_id,
            token_ids=self.context_token_ids[start:end],
            start=start,
            block_table=self.blocks.table(layout.blocks_for(end)),
            sample=self.sample if end == self.num_context_tokens else None,
            table_id=self.blocks.table_id,
            score=ScoreSpec.of(self.sequence.params, self.context_token_ids[start + 1 : end + 1]),
        )
