"""What is done for each of many tokens is done on a thread: elsewhere all streams would wait."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from http_client import counted_calls

import tandem.artifacts
from gateway.frontend import Frontend
from tandem.artifacts.tokenizer import Tokenizer

NUM_TOKENS = 20_000
TEXT = "x" * NUM_TOKENS


@pytest.mark.parametrize("fields", [{}, {"return_token_strs": True}])
async def test_tokenizing_does_as_much_on_the_loop_for_many_tokens_as_for_one(client, fields):
    await client.post("/tokenize", json={"prompt": "x"} | fields)
    with counted_calls() as num_calls:
        response = await client.post("/tokenize", json={"prompt": TEXT} | fields)
        assert response.json()["count"] == NUM_TOKENS
        assert num_calls() < NUM_TOKENS / 4


async def test_detokenizing_does_as_much_on_the_loop_for_many_tokens_as_for_one(client):
    tokens = [120] * NUM_TOKENS
    await client.post("/detokenize", json={"tokens": [120]})
    with counted_calls() as num_calls:
        response = await client.post("/detokenize", json={"tokens": tokens})
        assert response.json() == {"prompt": TEXT}
        assert num_calls() < NUM_TOKENS / 4


async def test_what_tokens_say_is_looked_up_on_a_thread_and_only_if_it_is_asked_for(
    client, monkeypatch
):
    threads: list[int] = []
    token_bytes = Tokenizer.token_bytes

    def recorded(self: Tokenizer, token_id: int) -> bytes:
        threads.append(threading.get_ident())
        return token_bytes(self, token_id)

    monkeypatch.setattr(Tokenizer, "token_bytes", recorded)
    await client.post("/tokenize", json={"prompt": TEXT})
    assert not threads
    await client.post("/tokenize", json={"prompt": TEXT, "return_token_strs": True})
    assert len(threads) == NUM_TOKENS
    assert threading.get_ident() not in threads


async def test_what_the_first_tokens_bytes_cost_is_paid_before_the_first_request(service, grammars):
    tokenizer = Tokenizer.open(Path(tandem.artifacts.__file__).parent / "mock")
    Frontend(service, tokenizer, grammars).close()
    assert {"_added", "_is_byte_level"} <= vars(tokenizer._token_bytes).keys()
