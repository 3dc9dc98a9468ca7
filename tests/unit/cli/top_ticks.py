"""Ticks of the page's feed, made up."""

from __future__ import annotations

from typing import Any

import orjson

from tandem.cli.top.history import History
from tandem.cli.top.tick import Tick, read_tick

Json = dict[str, Any]
SECOND_US = 1_000_000
NOW_US = 1000 * SECOND_US
STEP, TRANSFER = 1, 4


def worker(name: str, **details: Any) -> Json:
    return {
        "id": name,
        "role": name.partition("-")[0],
        "state": "serving",
        "needed": False,
        "device": "mock:h100",
        "busy": 0.5,
        "sequences": 2,
        "places": 256,
        "blocks": 100,
        "used_blocks": 25,
        "prompt_tokens": 0,
        "cached_tokens": 0,
        **details,
    }


def totals(**counts: int) -> Json:
    names = ("prompt_tokens", "cached_tokens", "generated_tokens", "kv_bytes", "finished")
    setbacks = ("failed", "refused", "preemptions", "recoveries")
    return {**dict.fromkeys((*names, *setbacks), 0), **counts}


def tick_json(*workers: Json, now: int = NOW_US, **details: Any) -> Json:
    return {
        "now": now,
        "model": "mock",
        "lanes": {},
        "workers": list(workers),
        "queue": [0, 0],
        "requests": {"counts": {"queued": 0, "prefill": 0, "transfer": 0, "decode": 0}},
        "totals": totals(),
        "first_token_s": [None, None],
        "between_tokens_s": [None, None],
        "pipeline": {"efficiency": None, "hidden": None, "transfers": 0, "bytes_per_s": 0},
        "bottleneck": {"where": "none", "text": "nothing is asked for"},
        **details,
    }


def tick(*workers: Json, now: int = NOW_US, **details: Any) -> Tick:
    return read_tick(orjson.dumps(tick_json(*workers, now=now, **details)).decode())


def history_of(*ticks: Tick) -> History:
    history = History()
    for each in ticks:
        history.take(each)
    return history


def step(start_us: int, duration_us: int, seqs: int, tokens: int, prompt_tokens: int) -> list[int]:
    """A row of the feed."""
    return [STEP, start_us, duration_us, seqs, tokens, prompt_tokens, 1]


def transfer(start_us: int, duration_us: int, exposed_us: int) -> list[int]:
    """Likewise."""
    return [TRANSFER, start_us, duration_us, 1, 4096, exposed_us]
