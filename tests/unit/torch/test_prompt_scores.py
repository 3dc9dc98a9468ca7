"""How likely an engine says that the tokens of a prompt are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from test_torch_determinism import next_count, tokens_of
from torch_driver import Driver, Row, kernels_in_use

from tandem.core.errors import InvalidRequest, Mismatch, TandemError
from tandem.core.logprobs import TokenLogprobs
from tandem.core.plan import ScoreSpec, SequenceSlice, StepPlan
from tandem.engine.torch.token_logprobs import StepLogprobs
from tandem.native.library import TORCH

LENGTHS = (1, 3, 40, 140)
NUM_TOP = 5
ARMS = [("avx2", "float32"), ("avx2", "bfloat16"), (TORCH, "float32")]


@pytest.fixture(scope="module", params=ARMS, ids="-".join)
def dtype(request: pytest.FixtureRequest) -> Iterator[str]:
    """With the kernels of the arm in use."""
    kernels, dtype = request.param
    with kernels_in_use(kernels):
        yield dtype


@pytest.fixture(scope="module")
def expected(llama_path: Path, dtype: str) -> dict[int, dict[int, TokenLogprobs]]:
    """By single tokens, from the logits that a token is sampled from behind each."""
    driver = Driver(llama_path, dtype=dtype)
    rows = [driver.row(tokens_of(length)) for length in LENGTHS]
    while pending := [each for each in rows if each.num_computed < len(each.tokens)]:
        driver.step([(row, 1) for row in pending])
    return dict(zip(LENGTHS, map(sampled_logprobs, rows), strict=True))


def sampled_logprobs(row: Row) -> dict[int, TokenLogprobs]:
    scores: dict[int, TokenLogprobs] = {}
    for position, token_id in enumerate(row.tokens[1:], 1):
        logits = row.logits[position - 1]
        own = logits.double().log_softmax(0)[token_id].item()
        (found,) = StepLogprobs.of(logits[None], torch.tensor([token_id]), [NUM_TOP]).report()
        assert found is not None
        assert found.logprob == pytest.approx(own, abs=1e-5)
        scores[position] = found
    return scores


def assert_same(row: Row, expected: dict[int, TokenLogprobs]) -> None:
    """The same bits, of as many of the likeliest as were asked for."""
    assert row.scores.keys() == expected.keys()
    num_top = NUM_TOP - len(row.tokens) % 4
    for position, scored in row.scores.items():
        known = expected[position]
        cut = known.top_ids[:num_top], known.top_logprobs[:num_top]
        assert scored == TokenLogprobs(known.logprob, *cut), position


@pytest.mark.parametrize(("seed", "threads"), [(0, 1), (1, 2)])
def test_a_token_is_as_likely_whatever_it_is_computed_with(
    llama_path: Path,
    dtype: str,
    expected: dict[int, dict[int, TokenLogprobs]],
    seed: int,
    threads: int,
) -> None:
    """Alone or beside others, in chunks of any size: as if it had been sampled."""
    torch.set_num_threads(threads)
    driver = Driver(llama_path, seed=seed, dtype=dtype)
    rows = [(driver.row(tokens_of(length)), length) for length in LENGTHS]
    while pending := [each for each in rows if each[0].num_computed < len(each[0].tokens)]:
        chosen = driver.random.sample(pending, driver.random.randint(1, len(pending)))
        work = [(row, next_count(driver, row, length)) for row, length in chosen]
        unsampled = driver.random.sample(range(len(work)), driver.random.randint(0, len(work)))
        driver.step(work, NUM_TOP, unsampled)
    for row, length in rows:
        assert_same(row, expected[length])


def test_a_prompt_may_be_as_long_as_the_model_takes(
    llama_path: Path, dtype: str, expected: dict[int, dict[int, TokenLogprobs]]
) -> None:
    tokens = tokens_of(LENGTHS[-1])
    driver = Driver(llama_path, dtype=dtype, max_model_len=len(tokens))
    row = driver.row(tokens)
    for count in (len(tokens) - 1, 1):
        driver.step([(row, count)], NUM_TOP)
    assert_same(row, expected[LENGTHS[-1]])


def test_tokens_are_sampled_as_without_scores(llama_path: Path, dtype: str) -> None:
    driver = Driver(llama_path, dtype=dtype)
    lengths = (40, 250, 3)
    plain, scored = ([driver.row(tokens_of(length)) for length in lengths] for _ in range(2))
    work = [list(zip(rows, lengths, strict=True)) for rows in (plain, scored)]
    assert driver.step(work[0]) == driver.step(work[1], NUM_TOP)
    for one, other in zip(plain, scored, strict=True):
        assert torch.equal(one.logits[one.num_computed - 1], other.logits[one.num_computed - 1])


@pytest.mark.parametrize(
    ("targets", "error"), [([331], InvalidRequest), ([1, 2, 3], Mismatch), ([], Mismatch)]
)
def test_what_is_no_token_behind_another_is_refused(
    llama_path: Path, dtype: str, targets: list[int], error: type[TandemError]
) -> None:
    engine = Driver(llama_path, dtype=dtype).engine
    score = ScoreSpec(targets, 1)
    plan = StepPlan(1, (SequenceSlice(1, [5, 6], 0, [0], None, score=score),), num_prefill_tokens=2)
    with pytest.raises(error):
        engine.launch(plan)
