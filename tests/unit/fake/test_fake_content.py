import doctest

import pytest

from tandem.core.noise import GOLDEN, mix, position_key
from tandem.core.sampling_params import SamplingParams
from tandem.engine.fake import content
from tandem.engine.fake.content import digest, expected_tokens, items, weights

GREEDY = SamplingParams(max_tokens=8, seed=7, temperature=0.0)
PLACES = [(p, layer, lane) for p in range(2) for layer in range(4) for lane in range(8)]


def item_by_hand(token: int, position: int, layer: int, plane: int, lane: int) -> int:
    return (token * 40503 + position * 30011 + layer * 7919 + plane * 4099 + lane * 521) % 65521


def digest_by_hand(tokens: list[int]) -> int:
    total = 0
    for position, token in enumerate(tokens):
        for plane, layer, lane in PLACES:
            counter = ((position * 2 + plane) * 4 + layer) * 2 + lane // 4
            weight = (mix((counter + 1) * GOLDEN % 2**64) | 1) << 16 * (lane % 4)
            total += item_by_hand(token, position, layer, plane, lane) * weight
    return total % 2**64


def test_the_worked_example_in_the_docstring():
    assert doctest.testmod(content) == (0, 5)


@pytest.mark.parametrize("token", [0, 9, 65520, 65521, 128_255])
@pytest.mark.parametrize("position", [0, 1, 131_071])
def test_items_are_the_stated_function(token, position):
    [*found] = items([token], [position])[:, :, 0, 0].ravel().tolist()
    assert found == [item_by_hand(token, position, layer, p, lane) for p, layer, lane in PLACES]


def test_the_digest_is_the_stated_function():
    tokens = [5, 9, 128_255, 0, 77]
    assert digest(tokens) == digest_by_hand(tokens)


def test_the_digest_of_a_part_adds_to_that_of_the_rest():
    tokens = list(range(100, 120))
    assert (digest(tokens[:7]) + digest(tokens[7:], start=7)) % 2**64 == digest(tokens)


def test_weights_of_a_range_are_those_of_the_whole():
    assert (weights(0, 40)[:, 13:29] == weights(13, 29)).all()


def test_expected_tokens_are_the_stated_function():
    tokens = [5, 9]
    for _ in range(4):
        tokens.append(100 + mix(digest_by_hand(tokens)) % 1000)
    assert expected_tokens([5, 9], GREEDY, 4, output_token_ids=(100, 1100)) == tokens[2:]


def test_sampling_mixes_in_seed_choice_and_position():
    warm = SamplingParams(max_tokens=8, seed=7, temperature=0.5)
    [token] = expected_tokens([5, 9], warm, 1, output_token_ids=(100, 1100), choice_index=3)
    assert token == 100 + mix(digest_by_hand([5, 9]) ^ position_key(7, 3, 2)) % 1000


def test_expected_tokens_go_on_from_any_token():
    prompt = [3, 1, 4]
    whole = expected_tokens(prompt, GREEDY, 9, output_token_ids=(0, 1000))
    rest = expected_tokens(prompt + whole[:4], GREEDY, 5, output_token_ids=(0, 1000))
    assert whole[4:] == rest
