"""Steps that are launched before the one before has ended."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st
from standing_plan_driver import EOS, Plan, ids, the_step

from tandem.core.commands import Remove
from tandem.core.errors import TandemError
from tandem.core.grammar import Grammar, GrammarKind
from tandem.core.logprobs import TokenLogprobs
from tandem.core.plan import PENDING, StepPlan, StepResult
from tandem.core.reports import DecodeReport, SequenceFailed, StepDone
from tandem.core.sequence import FinishReason
from tandem.core.worker import ModelInfo
from tandem.engine.fake.engine import FakeEngine, FakeStep
from tandem.engine.fake.profiles import parse_profile


def ahead(plan: Plan) -> StepPlan:
    step = plan.next_step_ahead()
    assert step is not None
    return step


def test_the_step_behind_goes_on_with_the_token_under_way() -> None:
    plan = Plan()
    plan.run(length=5)
    first = plan.start()
    second = ahead(plan)
    assert [(each.token_ids, each.start) for each in first.slices] == [((50,), 5)]
    assert [(each.token_ids, each.start) for each in second.slices] == [((PENDING,), 6)]
    assert the_step(plan.done(first, 60)).positions == (6,)
    third = ahead(plan)
    assert [(each.token_ids, each.start) for each in third.slices] == [((PENDING,), 7)]
    assert the_step(plan.done(second, 61)).positions == (7,)
    assert the_step(plan.done(third, 62)).token_ids == (62,)
    assert plan.start().slices[0].token_ids == (62,)


def test_a_sequence_that_is_armed_meanwhile_joins_the_step_behind() -> None:
    plan = Plan(num_blocks=20)
    plan.run(1)
    plan.start()
    plan.run(2)
    assert [each.token_ids for each in ahead(plan).slices] == [(PENDING,), (50,)]


def test_a_step_too_many_is_dropped_and_keeps_the_blocks_until_it_is_over() -> None:
    plan = Plan()
    plan.run()
    first, second = plan.start(), ahead(plan)
    assert the_step(plan.done(first, EOS)).finish_reasons[0] is not None
    assert plan.num_free_blocks < 8
    assert plan.next_step() is None
    assert the_step(plan.done(second, 99)).sequence_ids == ()
    assert plan.num_free_blocks == 8


def test_what_is_sure_to_end_is_in_no_step_behind() -> None:
    plan = Plan()
    plan.run(1, max_tokens=2)
    plan.run(2, max_tokens=3)
    assert ids(plan.next_step()) == [1, 2]
    assert ids(plan.next_step_ahead()) == [2]
    short = Plan(max_model_len=7)
    short.run(length=5, headroom=2)
    short.start()
    assert short.next_step_ahead() is None


def test_for_want_of_a_block_a_step_waits_for_the_one_under_way() -> None:
    """Which may free one: nobody fails before that is known."""
    plan = Plan(num_blocks=3)
    plan.run(1, length=3, headroom=1, max_tokens=2)
    plan.run(2, length=7, headroom=1)
    step = plan.start()
    assert plan.next_step_ahead() is None
    assert the_step(plan.done(step, 60, 61)).sequence_ids == (1, 2)
    assert ids(plan.next_step()) == [2]


def test_what_looks_at_its_own_tokens_waits_for_them() -> None:
    grammar = Grammar(GrammarKind.REGEX, "a*")
    for params in (
        {"min_tokens": 9},
        {"presence_penalty": 1.0},
        {"repetition_penalty": 1.1},
        {"grammar": grammar},
    ):
        plan = Plan(num_blocks=20)
        plan.run(1)
        plan.start()
        plan.run(2, **params)
        for preparation in plan.preparations.take_due():
            plan.prepared(preparation, None)
        assert plan.next_step_ahead() is None, params


def test_nobody_waits_once_there_are_min_tokens() -> None:
    plan = Plan()
    plan.run(min_tokens=3)
    assert plan.next_step_ahead() is None, "the first is there, two are to come"
    plan.done(plan.start(), 60)
    second = plan.start()
    assert plan.next_step_ahead() is None, "the third is under way: the engine knows of two"
    plan.done(second, 61)
    third, fourth = plan.start(), ahead(plan)
    assert the_step(plan.done(third, 62)).token_ids == (62,)
    assert the_step(plan.done(fourth, EOS)).finish_reasons == (FinishReason.STOP,)


def test_log_probabilities_are_no_reason_to_wait() -> None:
    plan = Plan()
    plan.run(logprobs=1)
    first, second = plan.start(), ahead(plan)
    own, others = TokenLogprobs.of(-0.5, (EOS,), (-0.5,)), TokenLogprobs.of(-0.1, (99,), (-0.1,))
    plan.complete(first, StepResult((EOS,), (own,)), 10, 20)
    assert the_step(plan.reports.take()).logprobs == (own,)
    plan.complete(second, StepResult((99,), (others,)), 20, 30)
    assert the_step(plan.reports.take()).logprobs == ()


def test_prompts_that_are_computed_here_wait_for_the_step_under_way() -> None:
    plan = Plan(num_blocks=20)
    plan.run(1)
    step = plan.start()
    plan.compute(2)
    assert plan.next_step_ahead() is None
    plan.reports.take()
    plan.done(step, 60)
    assert ids(plan.next_step()) == [1, 2]


def test_a_step_too_many_that_fails_costs_nothing() -> None:
    plan = Plan()
    plan.run()
    first, second = plan.start(), ahead(plan)
    plan.done(first, EOS)
    plan.fail(second, TandemError("broken"))
    assert plan.reports.take() == []
    (record,) = plan.snapshot().sequences
    assert (record.sequence_id, record.finish_reason) == (1, FinishReason.STOP)
    assert plan.num_free_blocks == 8


def test_a_failed_step_costs_a_sequence_once() -> None:
    plan = Plan()
    plan.run()
    first, second = plan.start(), ahead(plan)
    plan.fail(first, TandemError("broken"))
    assert plan.reports.take() == [SequenceFailed(1, TandemError("").reason, "broken")]
    assert the_step(plan.done(second, 60)).sequence_ids == ()
    assert plan.num_free_blocks == 8


# Against the same without running ahead


@dataclass
class Served:
    """A plan and the engine that runs it, as a `StepLoop` would."""

    runs_ahead: bool
    plan: Plan = field(default_factory=lambda: Plan(num_blocks=64, max_num_seqs=16))
    tokens: dict[int, list[tuple[int, TokenLogprobs | None]]] = field(default_factory=dict)
    under_way: tuple[StepPlan, FakeStep] | None = None

    def __post_init__(self) -> None:
        self.engine = FakeEngine(
            ModelInfo("mock", "f" * 64, 1000, 100, frozenset({EOS}), "fake"),
            profile=parse_profile("zero"),
            block_size=4,
            num_blocks=64,
            output_token_ids=(0, 40),
            runs_ahead=self.runs_ahead,
        )

    def turn(self) -> None:
        step = None
        if self.under_way is None:
            step = self.plan.next_step()
        elif self.runs_ahead:
            step = self.plan.next_step_ahead()
        launched = (step, self.engine.launch(step)) if step else None
        if self.under_way:
            done, handle = self.under_way
            self.plan.complete(done, handle.result(), 1, 2)
            self.note(self.plan.reports.take())
        self.under_way = launched

    def note(self, reports: list[DecodeReport]) -> None:
        for report in reports:
            assert isinstance(report, StepDone), report
            logprobs = report.logprobs or (None,) * len(report.token_ids)
            for sequence_id, *told in zip(
                report.sequence_ids, report.token_ids, logprobs, strict=True
            ):
                self.tokens.setdefault(sequence_id, []).append(tuple(told))


Arrival = tuple[int, int, float, int | None, int, int]
ARRIVALS = st.lists(
    st.tuples(
        st.integers(1, 9),
        st.integers(1, 12),
        st.sampled_from([0.0, 1.0]),
        st.sampled_from([None, 0, 3]),
        st.sampled_from([0, 0, 3]),
        st.integers(0, 3),
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=60, deadline=None)
@given(ARRIVALS, st.sets(st.integers(1, 8), max_size=2))
def test_the_tokens_are_those_of_one_step_after_the_other(
    arrivals: list[Arrival], removed: set[int]
) -> None:
    """And their log-probabilities. Sequences of any length come in between, end by length and by
    EOS, and are removed."""
    both = [Served(runs_ahead) for runs_ahead in (False, True)]
    for served in both:
        for sequence_id, arrival in enumerate(arrivals, 1):
            length, max_tokens, temperature, logprobs, min_tokens, turns = arrival
            served.plan.compute(
                sequence_id,
                length=length,
                headroom=max_tokens,
                max_tokens=max_tokens,
                temperature=temperature,
                logprobs=logprobs,
                min_tokens=min(min_tokens, max_tokens),
            )
            served.plan.reports.take()
            for _ in range(turns):
                served.turn()
        for _ in range(60):
            served.turn()
        assert served.under_way is None, "it should have come to an end"
        for sequence_id in (*removed, *range(1, len(arrivals) + 1)):
            served.plan.apply(Remove(sequence_id))
        assert served.plan.num_free_blocks == 64
    assert both[0].tokens == both[1].tokens
    assert all(both[0].tokens.values())
    for sequence_id, (*_, asked, _, _) in enumerate(arrivals, 1):
        for _, logprobs in both[1].tokens[sequence_id]:
            assert (logprobs and len(logprobs.top_ids)) == asked
