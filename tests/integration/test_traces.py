"""What a collector gets of requests to real processes, and what the log says of them."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from running_gateway import Gateway
from stack import WorkerProcess, started
from test_metrics import samples, total
from trace_receiver import Collector, Received, Trace, collecting

from tandem.client.requests import build_request
from tandem.core.worker import WorkerRole
from tandem.v1 import inference_pb2_grpc
from tandem.wire.channels import open_channel

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT_ID = "00f067aa0ba902b7"
CANARY = "the-quick-canary-of-" * 4
# In no other order than a prompt's do they stand anywhere.
CANARY_IDS = (91, 17, 83, 29, 71, 37)
STAGES = ["queue", "reserve", "prefill_wait", "prefill", "kv_transfer", "armed_wait", "decode"]
TRANSFERS = ("kv_transfer", "armed_wait")


@dataclass
class Traced:
    """A gateway whose traces are collected, over workers."""

    gateway: Gateway
    workers: Sequence[WorkerProcess]
    collector: Collector
    logs: Path

    async def ask(self, headers: dict[str, str] | None = None, **body: Any) -> httpx.Response:
        body = {"prompt": CANARY, "max_tokens": 8, "ignore_eos": True, **body}
        async with self.gateway.client() as client:
            return await client.post("/v1/completions", json=body, headers=headers, timeout=60)

    def lines(self, event: str) -> list[dict[str, Any]]:
        """What the gateway has logged of a kind."""
        said = (self.logs / "gateway").read_text().splitlines()
        entries = [json.loads(line) for line in said if line.startswith("{")]
        return [each for each in entries if each["event"] == event]


@asynccontextmanager
async def traced(
    logs: Path,
    num_prefill: int,
    num_decode: int,
    *flags: str,
    delay_ms: int = 20,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Traced]:
    """Spans are sent `delay_ms` after they have ended, or when the gateway ends."""
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", str(delay_ms))
    roles = [WorkerRole.PREFILL] * num_prefill + [WorkerRole.DECODE] * num_decode
    workers = [
        WorkerProcess(
            role,
            "--model=mock",
            "--device=mock:h100x20",
            f"--worker-id={role.name.lower()}-{number}",
            "--log-level=debug",
            log=logs / f"worker-{number}",
        )
        for number, role in enumerate(roles)
    ]
    async with collecting() as collector, started(*workers):
        gateway = Gateway(
            f"--otlp-endpoint={collector.address}",
            "--log-level=debug",
            "--log-format=json",
            *flags,
            log=logs / "gateway",
        )
        try:
            await gateway.start(*(_addresses(workers, role) for role in WorkerRole))
            yield Traced(gateway, workers, collector, logs)
        finally:
            gateway.kill()


def _addresses(workers: Sequence[WorkerProcess], role: WorkerRole) -> str:
    return ",".join(worker.address for worker in workers if worker.role is role)


def stages_of(trace: Trace, attempt: int = 1) -> list[Received]:
    found = [each for each in trace.spans if each.attributes.get("tandem.attempt") == attempt]
    return sorted(found, key=lambda each: STAGES.index(each.name))


def check_nesting(trace: Trace) -> None:
    """Each span lies within its parent's time."""
    for each in trace.spans:
        if parent := trace.parent_of(each):
            assert parent.span.start_time_unix_nano <= each.span.start_time_unix_nano, each.name
            assert each.span.end_time_unix_nano <= parent.span.end_time_unix_nano, each.name


def check_order(stages: Sequence[Received]) -> None:
    """The stages follow one another; a transfer begins while its prompt is computed."""
    for one, other in pairwise(each for each in stages if each.name != "kv_transfer"):
        assert one.span.end_time_unix_nano <= other.span.start_time_unix_nano, other.name


async def check_split_request(stack: Traced) -> None:
    headers = {"traceparent": f"00-{TRACE_ID}-{PARENT_ID}-01", "x-request-id": "split"}
    assert (await stack.ask(headers, n=2)).status_code == 200
    trace = await stack.collector.trace()
    root = trace.one("text_completion")
    assert (root.trace_id, root.span.parent_span_id.hex()) == (TRACE_ID, PARENT_ID)
    assert (root.service, root.attributes["gen_ai.usage.output_tokens"]) == ("tandem-gateway", 16)
    assert trace.parent_of(trace.one("tokenize")) is root
    choices = trace.of("llm_request")
    assert [trace.parent_of(choice) for choice in choices] == [root, root]
    assert choices[0].attributes["gen_ai.usage.completion_tokens"] == 8
    assert choices[0].attributes["tandem.mode"] == "disaggregated"
    assert choices[0].events == ["first_token"]
    for choice in choices:
        stages = [each for each in stages_of(trace) if trace.parent_of(each) is choice]
        assert [each.name for each in stages] == STAGES
        assert [(each.service, each.instance) for each in stages[2:]] == [
            *[("tandem-prefill", "prefill-0")] * 3,
            *[("tandem-decode", stages[-1].instance)] * 2,
        ]
        check_order(stages)
        prefill = stages[STAGES.index("prefill")].attributes
        assert prefill["tandem.prefill.tokens"] > len(CANARY) / 2
        assert prefill["tandem.prefill.batches"] >= 1
    check_nesting(trace)
    (line, _) = stack.lines("request ended")
    assert (line["request_id"], line["trace_id"], line["tokens"]) == ("split", TRACE_ID, 8)
    times = [line[f"{stage}_s"] for stage in ("queue", "reserve", "prefill", "decode")]
    assert all(seconds >= 0 for seconds in times)


async def check_unsampled(stack: Traced) -> None:
    """Whoever says that it is not to be traced is not."""
    headers = {"traceparent": f"00-{'a' * 32}-{PARENT_ID}-00"}
    assert (await stack.ask(headers)).status_code == 200
    assert "trace_id" not in stack.lines("request ended")[-1]


async def check_grpc(stack: Traced) -> None:
    trace_id = "c" * 32
    request = build_request(token_ids=list(CANARY_IDS), max_tokens=4, ignore_eos=True)
    metadata = (("traceparent", f"00-{trace_id}-{PARENT_ID}-01"),)
    async with open_channel(stack.gateway.grpc_address) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        async for _ in stub.Generate(request, metadata=metadata):
            pass
    trace = await stack.collector.trace(lambda trace: trace.spans[0].trace_id == trace_id)
    choice = trace.one("llm_request")
    assert choice.attributes["gen_ai.usage.prompt_tokens"] == len(CANARY_IDS)
    assert [each.name for each in stages_of(trace)] == STAGES
    check_nesting(trace)


async def check_bad_request(stack: Traced) -> None:
    assert (await stack.ask(max_tokens=10**6)).status_code == 400
    trace = await stack.collector.trace(lambda trace: not trace.of("llm_request"))
    (root,) = trace.spans
    assert root.failed
    assert root.attributes["error.type"] == "CONTEXT_LENGTH_EXCEEDED"


async def check_lost_worker(stack: Traced) -> None:
    """Kill the decode worker of a stream: the trace has two attempts."""
    decode = {f"decode-{number}": worker for number, worker in enumerate(stack.workers)}
    body = {"prompt": CANARY, "max_tokens": 60, "stream": True, "ignore_eos": True}
    async with (
        stack.gateway.client() as client,
        client.stream("POST", "/v1/completions", json=body, timeout=60) as response,
    ):
        lines = response.aiter_lines()
        for _ in range(20):
            await anext(lines)
        sent = [line async for line in _killing(stack, decode, lines)]
    assert any("recoveries" in line for line in sent)
    trace = await stack.collector.trace(lambda trace: len(stages_of(trace, 2)) > 0)
    first, second = stages_of(trace), stages_of(trace, 2)
    assert first[-1].name == "decode"
    assert first[-1].failed
    assert first[-1].events[-1:] == ["worker_lost"]
    assert [each.name for each in second][-1] == "decode"
    assert second[-1].instance != first[-1].instance
    assert not second[-1].failed
    check_order([*first, *second])
    check_nesting(trace)
    line = stack.lines("request ended")[-1]
    assert (line["attempts"], line["recoveries"], line["outcome"]) == (2, 1, "LENGTH")
    assert len(line["sequences"]) == 2


async def _killing(
    stack: Traced, decode: dict[str, WorkerProcess], lines: AsyncIterator[str]
) -> AsyncIterator[str]:
    """The lines that are left, once the worker is killed that generates them."""
    async with stack.gateway.client() as client:
        page = samples((await client.get("/metrics")).text)
    (busy,) = (each for each in decode if total(page, "tandem_worker_sequences", worker=each))
    os.kill(decode[busy].pid, signal.SIGKILL)
    async for line in lines:
        yield line


def check_nothing_is_told(stack: Traced) -> None:
    """Neither prompts nor token ids stand in logs or traces."""
    told = b"".join(stack.collector.raw)
    for log in stack.logs.iterdir():
        told += log.read_bytes()
    assert CANARY.encode() not in told
    assert CANARY[:30].encode() not in told
    for separator in (", ", ",", " "):
        assert separator.join(map(str, CANARY_IDS)).encode() not in told
    assert b"request ended" in told
    assert b"llm_request" in told


async def test_a_request_is_traced_across_the_processes(tmp_path, monkeypatch) -> None:
    async with traced(tmp_path, 1, 2, monkeypatch=monkeypatch) as stack:
        await check_split_request(stack)
        await check_unsampled(stack)
        await check_grpc(stack)
        await check_bad_request(stack)
        await check_lost_worker(stack)
        assert "a" * 32 not in {each.trace_id for each in stack.collector.spans}
        check_nothing_is_told(stack)


async def test_colocated_workers_do_it_all_and_what_is_not_sent_yet_is_at_the_end(
    tmp_path, monkeypatch
) -> None:
    flags = ("--prefill-token-budget=64",)
    async with traced(tmp_path, 0, 1, *flags, delay_ms=600_000, monkeypatch=monkeypatch) as stack:
        assert (await stack.ask()).status_code == 200
        assert not stack.collector.spans
        assert stack.gateway.process
        stack.gateway.process.terminate()
        assert await stack.gateway.ended() == 0
        (trace,) = stack.collector.traces()
    stages = stages_of(trace)
    assert [each.name for each in stages] == [each for each in STAGES if each not in TRANSFERS]
    assert {each.service for each in stages[2:]} == {"tandem-decode"}
    assert stages[3].attributes["tandem.prefill.steps"] >= len(CANARY) / 2 / 64
    assert "tandem.prefill.batch_id" not in stages[3].attributes
    check_order(stages)
    check_nesting(trace)
