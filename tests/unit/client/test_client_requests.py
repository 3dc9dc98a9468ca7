"""What is asked for, as a message."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from tandem.client.requests import build_detokenize_request, build_request
from tandem.core.errors import InvalidRequest


def test_a_choice_is_of_texts_not_of_a_text_s_letters() -> None:
    request = build_request(prompt="A colour:", choice=["red", "blue"])
    assert list(request.answer_form.one_of.texts) == ["red", "blue"]
    with pytest.raises(InvalidRequest, match="choice") as caught:
        build_request(prompt="A colour:", choice="red")
    assert caught.value.param == "choice"


IDS = [5, 2**32 - 1]


@pytest.mark.parametrize(
    "token_ids",
    [
        IDS,
        tuple(IDS),
        array("I", IDS),
        np.array(IDS),
        np.array(IDS, np.uint32),
        list(np.array(IDS)),
    ],
    ids=lambda each: f"{type(each).__name__} of {type(each[0]).__name__}",
)
def test_tokens_may_be_of_any_kind_of_integers(token_ids: Any) -> None:
    assert list(build_request(token_ids=token_ids).token_ids.ids) == IDS
    assert list(build_detokenize_request(token_ids, "").token_ids) == IDS
    lists: Sequence[Any] = [token_ids, token_ids[:1]]
    built = build_request(token_ids=lists).token_id_lists.lists
    assert [list(each.ids) for each in built] == [IDS, IDS[:1]]


def test_rows_of_an_array_are_prompts() -> None:
    rows: Any = np.array([[1, 2], [3, 4]])
    built = build_request(token_ids=rows).token_id_lists.lists
    assert [list(each.ids) for each in built] == [[1, 2], [3, 4]]


@pytest.mark.parametrize("token_ids", ["5", ["5"], [1.5], [-1], 5, np.array([0.5])], ids=repr)
def test_what_are_no_tokens(token_ids: Any) -> None:
    with pytest.raises(InvalidRequest):
        build_request(token_ids=token_ids)


def test_no_tokens_are_a_prompt_that_the_gateway_refuses() -> None:
    none: Any = np.array([], np.int64)
    assert build_request(token_ids=none) == build_request(token_ids=[])
