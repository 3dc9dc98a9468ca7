"""OpenVINO GenAI's continuous batching, step by step. Runs in OpenVINO's environment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import openvino
import openvino_genai

CACHE_GIB = 2
# What it takes of itself on CPUs.
KV_PRECISION = "u8"

# Told the number of new tokens.
OnTokens = Callable[[int], None]


class OpenVinoEngine:
    """`step` holds Python's lock all the while, so that a thread of its own would gain nothing:
    whoever drives it lets the event loop turn once between two steps."""

    def __init__(self, model: Path, kv_precision: str) -> None:
        config = openvino_genai.SchedulerConfig()
        config.cache_size = CACHE_GIB
        self._pipeline = openvino_genai.ContinuousBatchingPipeline(
            str(model), config, "CPU", {"KV_CACHE_PRECISION": kv_precision}
        )
        self._running: dict[int, tuple[openvino_genai.GenerationHandle, OnTokens]] = {}
        self._num_requests = 0

    def add(self, token_ids: Sequence[int], num_output: int, on_tokens: OnTokens) -> int:
        """Queue a prompt; the id of its request."""
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = num_output
        config.ignore_eos = True
        config.do_sample = False
        prompt = openvino.Tensor(np.array([token_ids], dtype=np.int64))
        self._num_requests += 1
        handle = self._pipeline.add_request(self._num_requests, prompt, config)
        self._running[self._num_requests] = (handle, on_tokens)
        return self._num_requests

    def cancel(self, request: int) -> None:
        """Stop, if it still runs."""
        if request in self._running:
            self._running.pop(request)[0].cancel()

    @property
    def has_work(self) -> bool:
        return bool(self._pipeline.has_non_finished_requests())

    def step(self) -> None:
        """One iteration; its tokens are told before it returns."""
        self._pipeline.step()
        finished = []
        for request, (handle, on_tokens) in list(self._running.items()):
            if handle.can_read():
                on_tokens(sum(len(each.generated_ids) for each in handle.read().values()))
            if handle.get_status() != openvino_genai.GenerationStatus.RUNNING:
                finished.append(request)
        for request in finished:
            self._running.pop(request, None)
