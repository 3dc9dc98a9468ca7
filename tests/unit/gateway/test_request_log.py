"""One line for each request that ends."""

from __future__ import annotations

from pytest import approx

from gateway.generation import Generation
from gateway.request_log import log_end
from gateway.request_metrics import TokenTimes
from gateway.stages import AttemptEnd, Stage
from gateway.tokens import Ended, TokenRequest
from tandem.core.errors import Unavailable
from tandem.core.sampling_params import SamplingParams
from tandem.core.sequence import FinishReason

STAGES = [f"{stage.name.lower()}_s" for stage in Stage]


def arrived() -> Generation:
    params = SamplingParams(max_tokens=5, seed=0)
    return Generation(TokenRequest("r", (91, 17, 83), params, tenant="t"), 7, arrived_s=1.0)


def test_it_says_where_the_time_went(logs) -> None:
    generation = arrived()
    for stage in Stage:
        generation.attempts.current.begin(stage, 1.0 + stage / 4)
    generation.prefill_worker, generation.decode_worker = "p", "d"
    generation.answer.token_ids = [37, 71]
    generation.restart(8, 3.0, AttemptEnd.WORKER_LOST)
    generation.end_attempt(4.0)
    ended = Ended(FinishReason.LENGTH, generation.served_by())
    log_end(generation, TokenTimes(2.5, 3.5), ended, "mock")
    (line,) = logs
    assert [line[name] for name in STAGES] == approx([1.25, *[0.25] * 5, 0.5])
    assert sum(line[name] for name in STAGES) == approx(line["total_s"]) == approx(3.0)
    expected = {
        "event": "request ended",
        "log_level": "info",
        "request_id": "r",
        "choice": 0,
        "tenant": "t",
        "model": "mock",
        "sequences": [7, 8],
        "outcome": "LENGTH",
        "ttft_s": 1.5,
        "prompt_tokens": 3,
        "tokens": 2,
        "attempts": 2,
        "recoveries": 1,
    }
    assert expected.items() <= line.items()
    assert "trace_id" not in line
    assert all(str(token_id) not in str(line) for token_id in (91, 83, 37, 71))


def test_what_no_worker_had_has_its_line_too(logs) -> None:
    generation = arrived()
    generation.end_attempt(1.5)
    log_end(generation, TokenTimes(), Unavailable("no worker"), "mock")
    (line,) = logs
    assert (line["outcome"], line["why"], line["mode"]) == ("UNAVAILABLE", "no worker", "none")
    assert (line["queue_s"], line["total_s"], line["ttft_s"]) == (0.5, 0.5, None)
