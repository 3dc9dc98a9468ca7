"""Long lists of ids come out as if they had been read in one call, and never by one."""

from __future__ import annotations

import random
from array import array

import orjson
import pytest
from http_client import TEXT_PATH

from gateway.http import long_lists
from gateway.http.long_lists import PIECE_BYTES, read_with_list
from gateway.limits import MAX_CHOICES, MAX_PROMPT_TOKENS
from tandem.core.errors import InvalidRequest

NUM_IDS = 40_000
DRAWN = random.Random(0)
# Cut behind its last comma.
PIECE = "1," * (PIECE_BYTES // 2 + 1)
IDS = [DRAWN.randrange(2**32) for _ in range(NUM_IDS)]


def listed(ids: list[int], separator: str = ",") -> str:
    return separator.join(map(str, ids))


@pytest.mark.parametrize("separator", [",", ", ", " ,\n\t"])
@pytest.mark.parametrize("field", ["prompt", "tokens"])
@pytest.mark.parametrize("before", ["", '"model": "default", "n": [1, 2], '])
async def test_it_is_what_a_single_call_would_have_read(field, separator, before):
    body = f'{{{before}"{field}"\n: [{listed(IDS, separator)}], "stop": ["]"]}}'.encode()
    value = await read_with_list(body)
    assert isinstance(value[field], array)
    assert value | {field: list(value[field])} == orjson.loads(body)


@pytest.mark.parametrize(
    ("num_lists", "between"), [(1, ""), (3, ","), (MAX_CHOICES, ", "), (2, " ,\n\t")]
)
async def test_lists_of_ids_are_what_a_single_call_would_have_read(num_lists, between):
    lists = f"[{f']{between}['.join([listed(IDS)] * num_lists)}]"
    body = f'{{"n": 2, "prompt": [ {lists}\r\n], "stop": ["]", "]]"]}}'.encode()
    value = await read_with_list(body)
    assert all(isinstance(each, array) for each in value["prompt"])
    assert value | {"prompt": list(map(list, value["prompt"]))} == orjson.loads(body)


@pytest.mark.parametrize("prompt", [IDS, [IDS], [IDS[:20_000], IDS[20_000:]]])
async def test_no_call_reads_more_than_a_piece(monkeypatch, prompt):
    sizes = []

    class Watched:
        JSONDecodeError = orjson.JSONDecodeError

        @staticmethod
        def loads(data: bytes) -> object:
            sizes.append(len(data))
            return orjson.loads(data)

    monkeypatch.setattr(long_lists, "orjson", Watched)
    assert await read_with_list(orjson.dumps({"prompt": prompt})) is not None
    assert sum(sizes) > NUM_IDS
    assert max(sizes) < PIECE_BYTES + 100


@pytest.mark.parametrize(
    "body",
    [
        '{"prompt": [1, 2, 3]}',
        f'{{"stop": [{listed(IDS)}]}}',
        f'{{"messages": [{{"prompt": [{listed(IDS)}]}}]}}',
        f'{{"prompt": "x", "messages": [{{"prompt": [{listed(IDS)}]}}]}}',
        f'{{"prompt": [{listed(IDS)}], "prompt": "x"}}',
        f'{{"\\"prompt": [{listed(IDS)}]}}',
        f'{{"prompt": [[{listed(IDS)}], "x"]}}',
        f'{{"prompt": [[{listed(IDS)}], 1]}}',
        f'{{"prompt": [[{listed(IDS)}], []]}}',
        f'{{"prompt": [[{listed(IDS)}, [1]]]}}',
        f'{{"prompt": [[{listed(IDS)}], [[1]]]}}',
        f'{{"prompt": [[{listed(IDS)}]{",[1]" * MAX_CHOICES}]}}',
        f'{{"prompt": [[{listed([*IDS, 2**32])}]]}}',
        f'{{"prompt": ["{listed(IDS)}"]}}',
        f'{{"prompt": "\\"prompt\\": [{listed(IDS)}]"}}',
        f'{{"prompt": [{listed([*IDS, -1])}]}}',
        f'{{"prompt": [{listed([*IDS, 2**32])}]}}',
        f'{{"prompt": [{listed([*IDS, 2**80])}]}}',
        f'{{"prompt": [{listed(IDS)}, 1.5]}}',
        f'{{"prompt": [{listed(IDS)}, true]}}',
        f'[{{"prompt": [{listed(IDS)}]}}]',
        f'{{"prompt": [{" " * 3 * PIECE_BYTES}]}}',
    ],
)
async def test_what_is_no_such_list_is_left_to_who_reads_all(body):
    orjson.loads(body)
    assert await read_with_list(body.encode()) is None


@pytest.mark.parametrize(
    "numbers",
    [
        f",{listed(IDS)}",
        f"{listed(IDS)},",
        f"{listed(IDS)},,{listed(IDS)}",
        f"{listed(IDS)}, ,{listed(IDS)}",
        f"{listed(IDS)} {listed(IDS)}",
        f"{listed(IDS)},007",
        # Cut just where one is missing.
        PIECE * 2,
        PIECE + " " * PIECE_BYTES + "," + PIECE + "1",
    ],
)
@pytest.mark.parametrize("more", ["", "}", "[", "]"])
async def test_what_is_no_json_is_not_taken_for_some(numbers, more):
    body = f'{{"prompt": [{numbers}]{more}}}'.encode()
    assert await read_with_list(body) is None


@pytest.mark.parametrize(
    "behind", ["", "]", "],]", "][1]]", "]\f,[1]]", "],,[1]]", "],[1,]]", "],[1]", "],[1", "],["]
)
async def test_lists_that_are_no_json_are_not_taken_for_some(behind):
    assert await read_with_list(f'{{"prompt": [[{listed(IDS)}{behind}}}'.encode()) is None


async def test_what_follows_is_to_be_json_as_well():
    assert await read_with_list(f'{{"prompt": [{listed(IDS)}], }}'.encode()) is None
    assert await read_with_list(f'{{"prompt": [{listed(IDS)}'.encode()) is None


async def test_more_ids_than_any_prompt_has_are_refused():
    body = orjson.dumps({"prompt": [7] * (MAX_PROMPT_TOKENS + 1)})
    with pytest.raises(InvalidRequest, match=f"at most {MAX_PROMPT_TOKENS} entries") as caught:
        await read_with_list(body)
    assert caught.value.param == "prompt"


async def test_over_http_lists_of_ids_are_prompts(client, service):
    prompts = [[7] * 300 for _ in range(MAX_CHOICES)]
    response = await client.post(TEXT_PATH, json={"prompt": prompts, "max_tokens": 1})
    assert len(response.json()["choices"]) == MAX_CHOICES
    assert [list(each.prompt_token_ids) for each in service.requests] == prompts


async def test_over_http_all_prompts_are_counted_together(client):
    prompts = [[7] * 40_000] * 7
    response = await client.post(TEXT_PATH, json={"prompt": prompts})
    assert response.status_code == 400
    assert response.json()["error"]["message"] == (
        f"prompt must have at most {MAX_PROMPT_TOKENS} tokens, and has 280000"
    )


async def test_over_http_its_prompt_is_counted_like_any(client):
    response = await client.post(TEXT_PATH, json={"prompt": [7] * NUM_IDS})
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "context_length_exceeded"
    assert str(NUM_IDS) in response.json()["error"]["message"]


async def test_over_http_the_last_of_its_ids_is_looked_at(client):
    response = await client.post("/detokenize", json={"tokens": [120] * NUM_IDS + [10**6]})
    assert response.status_code == 400
    assert "[0, 260)" in response.json()["error"]["message"]
