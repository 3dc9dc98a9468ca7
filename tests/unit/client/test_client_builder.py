"""A call's responses, as those of a later gateway may be."""

from __future__ import annotations

from typing import Any

import pytest

from tandem.client.builder import CompletionBuilder
from tandem.v1 import inference_pb2, sampling_pb2


def finished(**fields: Any) -> inference_pb2.GenerateResponse:
    return inference_pb2.GenerateResponse(finished=inference_pb2.GenerationFinished(**fields))


@pytest.mark.parametrize(
    ("number", "mode"), [(0, "none"), (1, "disaggregated"), (2, "local"), (99, "unknown")]
)
def test_a_serving_mode(number: Any, mode: str) -> None:
    builder = CompletionBuilder()
    builder.add(finished(served_by=inference_pb2.ServedBy(mode=number)))
    assert builder.build().served_by.mode == mode


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (sampling_pb2.FINISH_REASON_STOP, "stop"),
        (sampling_pb2.FINISH_REASON_LENGTH, "length"),
        (99, "stop"),
    ],
)
def test_a_finish_reason(number: Any, reason: str) -> None:
    builder = CompletionBuilder()
    builder.add(finished(finish_reason=number))
    assert builder.build().finish_reason == reason
