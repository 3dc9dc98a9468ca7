"""The gateway, put together.

A request's way through the files: `http/routes.py` or `grpc_inference.py` read it, `frontend.py`
checks and tokenises it, `dispatcher.py` hands it to `scheduler.py`, whose decisions go to the
workers through `worker_link.py`; tokens come back the same way, become text in `text.py`, and leave
as the protocol writes them.
"""

from __future__ import annotations

import asyncio
import socket
import time
from pathlib import Path
from typing import Literal

from pydantic import Field

from gateway.batching import Limits
from gateway.colocated_policies import colocated_policy
from gateway.discovery import Discovery, WorkerName
from gateway.dispatcher import Dispatcher
from gateway.frontend import Frontend
from gateway.grpc_inference import InferenceServicer
from gateway.http.app import create_app
from gateway.http.limits import (
    BODY_TIMEOUT_S,
    HEADER_TIMEOUT_S,
    MAX_CONNECTIONS,
    MAX_HEADER_BYTES,
    HttpLimits,
)
from gateway.http.page import page_router
from gateway.http.server import BACKLOG, HttpServer
from gateway.metrics_page import GatewayCollector
from gateway.page.feed import Feed
from gateway.page.viewers import Viewers
from gateway.policies import queue_policy
from gateway.scheduler import Scheduler
from gateway.tenants import ONE_TENANT, Tenants, read_tenants
from gateway.timeline import Timeline
from tandem.artifacts.grammars import GrammarCompiler
from tandem.artifacts.resolve import resolve
from tandem.core.address import parse_address
from tandem.core.errors import ConfigError
from tandem.core.worker import WorkerRole
from tandem.process.grpc_server import GrpcServer
from tandem.process.host import raise_open_files
from tandem.process.lifetime import settle, stop_signal
from tandem.process.logged_progress import LoggedProgress
from tandem.process.metrics import MetricsPage
from tandem.process.settings import ServiceSettings
from tandem.v1 import inference_pb2, inference_pb2_grpc

SERVICE = inference_pb2.DESCRIPTOR.services_by_name["InferenceService"].full_name
# A prompt of MAX_PROMPT_CHARS fits, at up to four bytes a character.
MAX_REQUEST_BYTES = 5 * 2**20
# Files and connections that are not clients' of HTTP.
RESERVED_FILES = 256
# How long clients have to read that the gateway stops.
STOP_GRACE_S = 1.0


class GatewaySettings(ServiceSettings):
    """Settings of the gateway."""

    host: str = Field("127.0.0.1", description="address to listen on")
    http_port: int = Field(8000, ge=1, le=65535, description="port of the OpenAI API")
    grpc_port: int = Field(50050, ge=1, le=65535, description="port of the gRPC API")
    prefill: str = Field(
        "127.0.0.1:50051",
        description="addresses of the prefill workers, comma-separated; a name may stand for many; "
        "none: decode workers compute the prompts as well (colocated)",
    )
    decode: str = Field("127.0.0.1:50052", description="addresses of the decode workers, likewise")
    model: str = Field("default", description="the workers' model; here, for its tokenizer")
    policy: str = Field(
        "shortest-first",
        description="order in which prompts are prefilled: shortest-first (with ageing), priority "
        "(with ageing), edf (earliest deadline first), fcfs, or an installed package's",
    )
    tenants: Path | None = Field(
        None,
        description="TOML file of tenants, a table each: weight, max_requests, "
        "max_tokens_in_flight; requests name theirs in X-Tandem-Tenant",
    )
    local_prefill: Literal["auto", "off"] = Field(
        "auto",
        description="auto: a decode worker computes a prompt that it would be sooner with than the "
        "prefill workers; off: never",
    )
    batching: str = Field(
        "chunked",
        description="colocated workers' steps: chunked, prefill-first or decode-first (static)",
    )
    prefill_token_budget: int = Field(
        256, ge=16, description="prompt tokens of a chunked colocated step"
    )
    max_batch_tokens: int = Field(
        2048, ge=16, description="prompt tokens of a prefill batch; longer prompts go in chunks"
    )
    tool_format: Literal["auto", "hermes", "llama", "mistral"] = Field(
        "auto", description="how the model writes tool calls; auto: as its chat template says"
    )
    max_queue: int = Field(4096, ge=1, description="requests that may wait; more are refused")
    max_connections: int = Field(
        MAX_CONNECTIONS, ge=1, description="HTTP connections at a time; more are refused"
    )
    max_header_bytes: int = Field(
        MAX_HEADER_BYTES, ge=1024, description="bytes of an HTTP request's line and headers"
    )
    header_timeout_s: float = Field(
        HEADER_TIMEOUT_S, gt=0, description="seconds in which an HTTP request's headers must come"
    )
    body_timeout_s: float = Field(
        BODY_TIMEOUT_S, gt=0, description="seconds in which an HTTP request's body must come"
    )

    def workers(self) -> list[WorkerName]:
        """Where to look for workers. Raises `ConfigError` if there is no decode worker, an address
        is none, or two share one."""
        prefill = [parse_address(each, "prefill") for each in _parts(self.prefill)]
        decode = [parse_address(each, "decode") for each in _parts(self.decode)]
        if not decode:
            raise ConfigError("the gateway needs at least one decode worker", param="decode")
        if len({*prefill, *decode}) < len(prefill) + len(decode):
            raise ConfigError("an address is named twice among the workers'")
        return [
            *(WorkerName(WorkerRole.PREFILL, address) for address in prefill),
            *(WorkerName(WorkerRole.DECODE, address) for address in decode),
        ]

    def http_limits(self) -> HttpLimits:
        """As the settings ask for them, and as many connections as this process may have."""
        num_files = raise_open_files() - RESERVED_FILES
        return HttpLimits(
            max_connections=max(1, min(self.max_connections, num_files)),
            max_header_bytes=self.max_header_bytes,
            header_timeout_s=self.header_timeout_s,
            body_timeout_s=self.body_timeout_s,
        )

    def read_tenants(self) -> Tenants:
        """Who shares the workers. Raises `ConfigError`."""
        return read_tenants(self.tenants) if self.tenants else ONE_TENANT

    def scheduler(self, tenants: Tenants = ONE_TENANT) -> Scheduler:
        """As the settings ask for it. Raises `ConfigError` for a policy that is not known."""
        colocated = colocated_policy(
            self.batching, self.max_batch_tokens, self.prefill_token_budget
        )
        return Scheduler(
            queue_policy(self.policy),
            Limits(max_batch_tokens=self.max_batch_tokens, max_queue=self.max_queue),
            first_id=time.time_ns() // 1000,
            colocated=None if _parts(self.prefill) else colocated,
            local_prefill=self.local_prefill == "auto",
            tenants=tenants,
        )


async def serve(settings: GatewaySettings) -> None:
    """Run the gateway until it is told to stop. Raises `ConfigError`."""
    names = settings.workers()
    tenants = settings.read_tenants()
    scheduler = settings.scheduler(tenants)
    folder = resolve(settings.model, LoggedProgress())
    listener = _listen(settings.host, settings.http_port)
    timeline = Timeline()
    dispatcher = Dispatcher(scheduler, (), folder.fingerprint, timeline)
    discovery = Discovery(names, dispatcher)
    tokenizer = folder.tokenizer()
    grammars = GrammarCompiler(tokenizer, folder.config.vocab_size, folder.config.eos_token_ids)
    frontend = Frontend(dispatcher, tokenizer, grammars, settings.tool_format, tenants)
    grpc_server = GrpcServer(f"{settings.host}:{settings.grpc_port}", MAX_REQUEST_BYTES)
    inference_pb2_grpc.add_InferenceServiceServicer_to_server(
        InferenceServicer(frontend, dispatcher, timeline.read), grpc_server.server
    )
    metrics = MetricsPage(GatewayCollector(scheduler, dispatcher.metrics, folder.name))
    viewers = Viewers(
        lambda: Feed(scheduler, dispatcher.metrics, timeline).tick, lambda: dispatcher.draining
    )
    app = create_app(frontend, dispatcher, metrics)
    app.include_router(page_router(viewers))
    http_server = HttpServer(app, settings.http_limits())
    await grpc_server.start([SERVICE])
    settle()
    dispatcher.start()
    try:
        async with asyncio.TaskGroup() as tasks:
            serving = tasks.create_task(http_server.serve([listener]))
            stopping = tasks.create_task(stop_signal())
            searching = tasks.create_task(discovery.run(), name="discovery")
            await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            searching.cancel()
            # Clients are told before their connections end.
            dispatcher.drain()
            tasks.create_task(grpc_server.stop())
            await frontend.idle(STOP_GRACE_S)
            http_server.should_exit = True
    finally:
        await dispatcher.stop()
        frontend.close()
        timeline.close()


def _listen(host: str, port: int) -> socket.socket:
    """Raises `ConfigError` if the port cannot be had: before any work is done for it."""
    try:
        return socket.create_server((host, port), backlog=BACKLOG)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host}:{port}: {error.strerror}", param="http_port"
        ) from None


def _parts(text: str) -> list[str]:
    return [part for each in text.split(",") if (part := each.strip())]
