"""A prefill worker's batches, whatever comes in whatever order: prompts in chunks, steps that fail,
removals, and KV that is read for sending meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain, takewhile
from typing import Any

from batch_model import BLOCK, Batch, Prompt, Slots
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from test_batch_queue import EOS, GRAMMAR, LAYOUT, Queue, scores

from tandem.core.commands import PrefillBatch, Remove
from tandem.core.errors import EngineFailed, Fenced, InvalidRequest
from tandem.core.plan import StepPlan, StepResult
from tandem.core.reports import BatchDone, FirstToken, SequenceFailed, TransferDone

NO_TOKEN = InvalidRequest("too complex")
FATES = st.sampled_from([*["success"] * 4, "removal", "failure"])
RARELY = st.sampled_from([*[False] * 9, True])
# None: it cannot be sampled.
SAMPLED = st.sampled_from([50, 51, 52, EOS, None])
DETAILS = st.fixed_dictionaries(
    {
        "length": st.integers(1, 5 * BLOCK),
        "prefix_salt": st.sampled_from([b"", b"", b"another's"]),
        "max_tokens": st.sampled_from([1, 9, 9]),
        "grammar": st.sampled_from([None, None, None, GRAMMAR]),
        "prompt_logprobs": st.sampled_from([None, 1]),
    }
)


class BatchMachine(RuleBasedStateMachine):
    """Against a plain model. `readings` are blocks that are read, and how many tokens of them."""

    queue: Queue

    @initialize(num_blocks=st.integers(5, 9), prefix_caching=st.booleans())
    def begin(self, num_blocks: int, prefix_caching: bool) -> None:
        self.queue = Queue(num_blocks, prefix_caching=prefix_caching)
        self.num_blocks = num_blocks
        self.slots = Slots(num_blocks)
        self.prompts: dict[int, Prompt] = {}
        self.batches: dict[int, Batch] = {}
        self.step: StepPlan | None = None
        self.preparations: list[Any] = []
        self.readings: list[tuple[Prompt, tuple[int, ...], int]] = []
        plain = {"prefix_salt": b"", "grammar": None, "prompt_logprobs": None, "max_tokens": 9}
        # There is soon too little for them.
        self.come([{"length": length, **plain} for length in (9, 16, 5)], False, 99, 0)
        self.launch()

    # What the controller says

    @rule(
        new=st.lists(DETAILS, max_size=3),
        goes_on=st.booleans(),
        size=st.sampled_from([BLOCK, 2 * BLOCK, 99, 99]),
        max_tokens=st.sampled_from([0, 0, 1, 5, 9]),
    )
    def come(self, new: list[dict[str, Any]], goes_on: bool, size: int, max_tokens: int) -> None:
        """Prompts, or their first chunks, and the next ones of those that are not whole; who has
        ended leaves."""
        for each in self.known:
            if each.is_over:
                self.leave(each)
        unfinished = [each for each in self.prompts.values() if each.num_come < each.length]
        fresh = [Prompt(number, each) for number, each in enumerate(new, len(self.prompts) + 1)]
        self.prompts.update((each.sequence_id, each) for each in fresh)
        prompts = [*(unfinished if goes_on else ()), *fresh]
        chunks = {each: each.next_chunk(size) for each in prompts}
        if not chunks:
            return
        ranges = {prompt: range(each.start, each.end) for prompt, each in chunks.items()}
        command = PrefillBatch(len(self.batches) + 1, tuple(chunks.values()), max_tokens)
        self.batches[command.batch_id] = Batch(ranges, max_tokens)
        list(self.queue.hashing(command))
        self.queue.apply(command)
        for each in fresh:
            each.record = self.queue._sequences[each.sequence_id]
        self.preparations += self.queue.preparations.take_due()
        self.hear()

    @precondition(lambda self: self.known)
    @rule(data=st.data(), controller_is_lost=RARELY)
    def remove(self, data: st.DataObject, controller_is_lost: bool) -> None:
        """One, or all: of a batch that is in a step then is told as long as it is."""
        if controller_is_lost:
            self.queue.clear()
            for prompt in self.known:
                prompt.is_over = prompt.is_removed = True
            for batch in self.batches.values():
                batch.is_done |= not (self.step and batch is self.batch)
                batch.chunks = {}
        else:
            self.leave(data.draw(st.sampled_from(self.known)))
        self.hear()

    def leave(self, prompt: Prompt) -> None:
        self.queue.apply(Remove(prompt.sequence_id))
        prompt.is_over = prompt.is_removed = True

    @precondition(lambda self: self.queue._scored)
    @rule()
    def acknowledge_reports(self) -> None:
        self.queue.acknowledge(self.queue.reports.last_taken)
        for prompt in self.prompts.values():
            prompt.scores_are_known()

    # What the worker does

    @rule(data=st.data(), fates=st.lists(FATES, min_size=1, max_size=6))
    def step_on(self, data: st.DataObject, fates: list[str]) -> None:
        """Steps end, well or not, and others begin, in which a sequence may be removed."""
        for fate in fates:
            if self.step and fate == "failure":
                self.fail()
            elif self.step:
                self.complete(lambda: data.draw(SAMPLED))
            self.launch()
            if fate == "removal" and self.known:
                self.remove(data, controller_is_lost=False)

    def launch(self) -> None:
        started = {each for each in self.prompts.values() if each.has_started}
        self.step = self.queue.next_step()
        for each in self.known:
            if each.record.blocks.ids and not each.has_started:
                self.start(each)
        self.hear()
        if self.step:
            self.check_step(self.step, started)
        else:
            waiting = [self.waiting(each) for each in self.batches.values() if not each.is_done]
            assert all(waiting), "a batch is through, and was not told of"
            assert started.isdisjoint(chain.from_iterable(waiting)), "what could go on waits"

    def fail(self) -> None:
        self.queue.fail(self.step, EngineFailed("the engine failed"))
        self.landed(False, *((each, SequenceFailed) for each in self.in_step))

    def complete(self, draw: Callable[[], int | None]) -> None:
        slices = self.step.slices
        tokens = tuple(draw() if each.sample else None for each in slices)
        sampled = zip(self.in_step, slices, tokens, strict=True)
        told = [
            (prompt, FirstToken if token else SequenceFailed)
            for prompt, each, token in sampled
            if each.sample
        ]
        failures = tuple(
            NO_TOKEN if each.sample and not token else None
            for each, token in zip(slices, tokens, strict=True)
        )
        found = tuple(
            scores(each.start + 1, each.start + 1 + len(each.score.targets)) if each.score else None
            for each in slices
        )
        self.queue.complete(self.step, StepResult(tokens, (), failures, found), 10, 20)
        self.landed(True, *told)

    def landed(self, is_right: bool, *told: tuple[Prompt, type]) -> None:
        for prompt, each in zip(self.in_step, self.step.slices, strict=True):
            self.slots.write(prompt.salt, each, is_right)
            prompt.num_there = each.end
        number, self.step = self.step.number, None
        self.hear(*told, step=number)
        self.batch.is_done |= not self.batch.chunks

    @precondition(lambda self: self.preparations)
    @rule(is_good=st.booleans())
    def prepare(self, is_good: bool) -> None:
        preparation = self.preparations.pop(0)
        self.queue.prepared(preparation, None if is_good else NO_TOKEN)
        failed = () if is_good else ((self.prompts[preparation.sequence_id], SequenceFailed),)
        self.hear(*failed)

    @precondition(lambda self: any(each.has_started for each in self.prompts.values()))
    @rule(data=st.data())
    def read(self, data: st.DataObject) -> None:
        started = [each for each in self.prompts.values() if each.has_started]
        prompt = data.draw(st.sampled_from(started))
        reading = prompt, tuple(prompt.record.blocks.ids), prompt.num_there
        is_granted = prompt.record.blocks.begin_access()
        assert is_granted is not prompt.is_over
        if is_granted:
            self.readings.append(reading)

    @precondition(lambda self: self.readings)
    @rule(which=st.sampled_from([0, -1]))
    def end_reading(self, which: int) -> None:
        prompt, table, num_tokens = self.readings.pop(which)
        self.slots.check(prompt.salt, table, num_tokens)
        prompt.record.blocks.end_access()

    @precondition(lambda self: self.queue.transfers.started)
    @rule(data=st.data(), fails=RARELY)
    def end_transfer(self, data: st.DataObject, fails: bool) -> None:
        """All KV is acknowledged, or not; perhaps of a sequence that was removed meanwhile."""
        prompt = self.prompts[data.draw(st.sampled_from(self.queue.transfers.started))]
        if fails:
            self.queue.transfer_failed(prompt.sequence_id, Fenced("released"))
            self.hear((prompt, SequenceFailed))
        elif prompt.is_sent and (prompt.is_removed or not prompt.is_over):
            self.acknowledge(prompt)

    def acknowledge(self, prompt: Prompt) -> None:
        self.queue.transfer_done(prompt.sequence_id, 7)
        self.hear((prompt, TransferDone))

    # What must hold

    @invariant()
    def blocks_are_held_or_free(self) -> None:
        """A sequence that has started has all of its own until it is over and nobody is at them."""
        busy = {*self.in_step, *(prompt for prompt, *_ in self.readings)}
        held: set[int] = set()
        num_unused = 0
        for each in self.prompts.values():
            is_held = each.has_started and (each in busy or not each.is_over)
            ids = each.record.blocks.ids
            assert len(ids) == (LAYOUT.blocks_for(each.length) if is_held else 0)
            held.update(ids)
            num_unused += -each.length % BLOCK if is_held and not each.is_removed else 0
        assert set(filter(self.queue._allocator.is_held, range(self.num_blocks))) == held
        assert self.queue.num_free_blocks == self.num_blocks - len(held)
        assert self.queue.num_unused_slots == num_unused

    @invariant()
    def all_is_told_once_and_again_in_a_snapshot(self) -> None:
        assert all(each.num_ends == each.is_over for each in self.known)
        snapshot = self.queue.snapshot()
        assert snapshot.sequence_ids == tuple(each.sequence_id for each in self.known)
        assert snapshot.reports == tuple(chain.from_iterable(each.reports for each in self.known))
        open_ids = {number for number, each in self.batches.items() if not each.is_done}
        assert set(snapshot.batch_ids) == open_ids

    def teardown(self) -> None:
        """Nothing waits for ever, and nothing is kept of what is over."""
        if not hasattr(self, "queue"):
            return
        while self.readings:
            self.end_reading(0)
        while any(each.num_come < each.length for each in self.prompts.values()):
            self.come([], goes_on=True, size=99, max_tokens=0)
        while self.preparations:
            self.prepare(is_good=True)
        is_going_on = True
        while is_going_on:
            if self.step:
                self.complete(lambda: 50)
            sent = [each for each in self.known if each.is_sent and not each.is_over]
            for each in sent:
                self.acknowledge(each)
            self.launch()
            is_going_on = bool(self.step or sent)
        assert all(each.is_over for each in self.prompts.values()), "something waits for ever"
        assert all(each.is_done for each in self.batches.values())
        self.acknowledge_reports()
        self.all_is_told_once_and_again_in_a_snapshot()
        for each in self.known:
            self.leave(each)
        queue = self.queue
        assert not (queue._sequences or queue._batches or queue._in_flight or queue._scored)
        assert not (queue._hashed._chains or queue.preparations._pending)
        assert set(queue.transfers.aborted) == set(self.prompts)
        assert sorted(queue._allocator.allocate(self.num_blocks)) == list(range(self.num_blocks))

    # Inside

    @property
    def known(self) -> list[Prompt]:
        return [each for each in self.prompts.values() if not each.is_removed]

    @property
    def in_step(self) -> list[Prompt]:
        return [self.prompts[each.sequence_id] for each in (self.step.slices if self.step else ())]

    def waiting(self, batch: Batch) -> set[Prompt]:
        return batch.waiting({self.prompts[each.sequence_id] for each in self.preparations})

    def start(self, prompt: Prompt) -> None:
        """It has its blocks, and in the first of them what is cached."""
        prompt.has_started = True
        prompt.num_there = prompt.record.num_cached_tokens
        assert prompt.num_there < (1 if prompt.scores else prompt.length)
        self.slots.check(prompt.salt, prompt.record.blocks.ids, prompt.num_there)

    def check_step(self, step: StepPlan, started: set[Prompt]) -> None:
        """It is of one batch, has no more than that may, and passes no batch that waits for blocks,
        but with sequences that had started."""
        self.batch = next(
            each
            for each in self.batches.values()
            if step.slices[0].start in each.chunks.get(self.in_step[0], ())
        )
        chunks, most = self.batch.chunks, self.batch.max_tokens
        assert step.num_prefill_tokens == step.num_tokens > 0
        assert not most or step.num_tokens <= max(most, BLOCK)
        assert len(set(self.in_step)) == len(self.in_step)
        assert self.waiting(self.batch).issuperset(self.in_step)
        before = takewhile(lambda each: each is not self.batch, self.batches.values())
        if any(map(self.waiting, before)):
            assert all(each in started or chunks[each].start for each in self.in_step)
        for prompt, each in zip(self.in_step, step.slices, strict=True):
            assert each.end <= chunks[prompt].stop
            prompt.check_slice(each)
            self.slots.check(prompt.salt, each.block_table, each.start)
            written = each.block_table[each.start // BLOCK :]
            assert self.queue._allocator.num_solely_held(written) == len(written)

    def hear(self, *expected: tuple[Prompt, type], step: int = 0) -> None:
        """This is reported of those that were not over, and of batches of which nothing is left to
        run."""
        due = [(prompt, kind) for prompt, kind in expected if not prompt.is_over]
        reports = self.queue.reports.take()
        told = [each for each in reports if not isinstance(each, BatchDone)]
        assert [(self.prompts[each.sequence_id], type(each)) for each in told] == due
        for (prompt, _), each in zip(due, told, strict=True):
            prompt.reports.append(each)
            prompt.is_over = prompt.num_ends == 1
            if isinstance(each, FirstToken):
                assert prompt.is_over is (each.token_id == EOS or prompt.ends_at_once)
                assert each.prompt_logprobs == prompt.scores
                prompt.is_sent = not prompt.is_over
        for done in (each for each in reports if isinstance(each, BatchDone)):
            batch = self.batches[done.batch_id]
            assert not (batch.is_done or self.waiting(batch)) and done.step == step
            batch.is_done = True


TestBatchMachine = BatchMachine.TestCase
TestBatchMachine.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
