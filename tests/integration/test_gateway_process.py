"""The gateway's process: what it offers, and how it stops in the middle of its work."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from running_gateway import Gateway, running_gateway

from tandem.bench.ports import free_port
from tandem.process.api_keys import add_api_key, digest_of
from tandem.wire.channels import open_channel

BODY = {"prompt": "hello", "max_tokens": 2}


async def test_health_and_reflection() -> None:
    async with running_gateway() as gateway:
        async with open_channel(gateway.grpc_address) as channel:
            request = health_pb2.HealthCheckRequest(service="tandem.v1.InferenceService")
            answer = await health_pb2_grpc.HealthStub(channel).Check(request, timeout=60)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        with grpc.insecure_channel(gateway.grpc_address) as sync_channel:
            listed = ProtoReflectionDescriptorDatabase(sync_channel).get_services()
        assert "tandem.v1.InferenceService" in listed


async def test_every_line_of_the_log_is_an_object(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also what libraries say, of a collector that is not there."""
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    file = tmp_path / "log"
    collector = f"--otlp-endpoint=http://127.0.0.1:{free_port()}"
    gateway = Gateway("--log-format=json", collector, log=file)
    try:
        await gateway.start_process("", "127.0.0.1:1")
        await gateway.until_listening()
        async with gateway.client() as client, asyncio.timeout(60):
            while "opentelemetry" not in file.read_text():
                await client.post("/v1/completions", json={"prompt": "Hi"})
                await asyncio.sleep(0.1)
    finally:
        gateway.kill()
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert all(line["event"] for line in lines)
    exports = [line for line in lines if line.get("logger", "").startswith("opentelemetry")]
    assert len(exports) <= 2


async def test_keys_are_given_and_taken_back_while_it_runs(tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    first = add_api_key(keys, "default")
    gateway = Gateway(f"--api-keys={keys}")
    try:
        # That none of its workers is there does not matter to whom it asks for a key.
        await gateway.start_process("", "127.0.0.1:1")
        await gateway.until_listening()
        async with gateway.client() as client, asyncio.timeout(60):
            assert await status(client, first) == 200
            second = add_api_key(keys, "default")
            while await status(client, second) != 200:
                await asyncio.sleep(0.05)
            keys.write_text(keys.read_text().replace(digest_of(first), digest_of("another")))
            while await status(client, first) != 401:
                await asyncio.sleep(0.05)
            assert await status(client, second) == 200
    finally:
        gateway.kill()


async def status(client: httpx.AsyncClient, key: str) -> int:
    answer = await client.get("/v1/models", headers={"authorization": f"Bearer {key}"})
    return answer.status_code


@asynccontextmanager
async def streaming(gateway: Gateway, max_tokens: int) -> AsyncIterator[AsyncIterator[str]]:
    """A client that has read the first chunk: the lines that are left."""
    body = {"prompt": "hello", "max_tokens": max_tokens, "stream": True, "ignore_eos": True}
    async with (
        gateway.client() as client,
        client.stream("POST", "/v1/completions", json=body) as response,
    ):
        lines = response.aiter_lines()
        assert (await anext(lines)).startswith("data: ")
        yield lines


async def rest_of(lines: AsyncIterator[str]) -> list[str]:
    return [line async for line in lines if line]


async def test_sigterm_lets_streams_finish_and_nobody_new_in() -> None:
    async with running_gateway("mock:h100x5") as gateway:
        assert gateway.process
        async with streaming(gateway, 200) as lines, gateway.client() as other:
            assert (await other.get("/ready")).status_code == 200
            gateway.process.terminate()
            while (await other.get("/ready")).status_code == 200:
                await asyncio.sleep(0.01)
            refused = await other.post("/v1/completions", json={"prompt": "hello"})
            assert refused.status_code == 503
            assert "stopping" in refused.json()["error"]["message"]
            assert int(refused.headers["retry-after"]) >= 1
            assert refused.headers["connection"] == "close"
            assert (await other.get("/health")).status_code == 503
            assert (await other.get("/live")).status_code == 200
            async with open_channel(gateway.grpc_address) as channel:
                answer = await health_pb2_grpc.HealthStub(channel).Check(
                    health_pb2.HealthCheckRequest(), timeout=60
                )
                assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING
            assert gateway.process.returncode is None
            rest = await rest_of(lines)
        assert len(rest) > 190
        assert not [line for line in rest if '"error"' in line]
        assert rest[-1] == "data: [DONE]"
        assert await gateway.ended() == 0


async def test_who_asks_whether_it_is_ready_has_time_to_hear_that_it_stops() -> None:
    flags = ("--drain-delay=600", "--drain-timeout=900")
    async with running_gateway("mock:h100x5", *flags) as gateway:
        assert gateway.process
        async with gateway.client() as client, open_channel(gateway.grpc_address) as channel:
            gateway.process.terminate()
            while (await client.get("/ready")).status_code == 200:
                await asyncio.sleep(0.01)
            health = await health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=60
            )
            assert health.status == health_pb2.HealthCheckResponse.NOT_SERVING
            served = await client.post("/v1/completions", json=BODY)
            assert served.status_code == 200, served.text
            # A connection that is kept would bring the next request here, too.
            assert served.headers["connection"] == "close"


async def test_when_that_time_is_over_streams_finish_and_nobody_new_gets_in() -> None:
    async with running_gateway("mock:h100x5", "--drain-delay=0.5") as gateway:
        assert gateway.process
        async with gateway.client() as client, streaming(gateway, 200) as lines:
            gateway.process.terminate()
            async with asyncio.timeout(60):
                while (await client.post("/v1/completions", json=BODY)).status_code == 200:
                    await asyncio.sleep(0.05)
            rest = await rest_of(lines)
        assert rest[-1] == "data: [DONE]" and '"error"' not in rest[-2]
        assert await gateway.ended() == 0


async def test_a_second_signal_waits_for_nobody_to_hear_of_the_first() -> None:
    flags = ("--drain-delay=600", "--drain-timeout=900")
    async with running_gateway("mock:zero", *flags) as gateway:
        assert gateway.process
        gateway.process.terminate()
        async with gateway.client() as client:
            while (await client.get("/ready")).status_code == 200:
                await asyncio.sleep(0.01)
        gateway.process.terminate()
        assert await gateway.ended() == 0


@pytest.mark.parametrize(
    ("number", "flags"),
    [(signal.SIGTERM, ["--drain-timeout=0.2"]), (signal.SIGINT, [])],
)
async def test_what_is_left_ends_with_an_error_event(
    number: signal.Signals, flags: list[str]
) -> None:
    async with running_gateway("mock:h100x20", *flags) as gateway:
        assert gateway.process
        async with streaming(gateway, 2000) as lines:
            gateway.process.send_signal(number)
            rest = await rest_of(lines)
        assert '"error"' in rest[-2]
        assert "stopping" in rest[-2]
        assert rest[-1] == "data: [DONE]"
        assert await gateway.ended() == 0
