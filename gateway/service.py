"""The gateway's settings, and the gateway put together by them: the scheduler and its dispatcher,
discovery, the frontend, and the servers that let requests in.

A request's way through them is told in `frontend.py`.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import structlog
from pydantic import Field, SecretStr

from gateway.access import Access, KeySources, read_access
from gateway.colocated_policies import colocated_policy
from gateway.discovery import Discovery, WorkerName
from gateway.dispatcher import Dispatcher
from gateway.fleet_metrics import FleetCollector
from gateway.frontend import Frontend
from gateway.grpc_access import AccessInterceptor
from gateway.grpc_admin import AdminServicer
from gateway.grpc_calls import MAX_CALLS, SPARE_CALLS, CallLimit
from gateway.grpc_inference import InferenceServicer
from gateway.grpc_outcomes import CountedCalls, grpc_outcomes
from gateway.grpc_size import SizeLimit
from gateway.http.admin import admin_router
from gateway.http.app import create_app
from gateway.http.counted import http_outcomes
from gateway.http.limits import (
    BODY_TIMEOUT_S,
    HEADER_TIMEOUT_S,
    KEEP_ALIVE_S,
    MAX_CONNECTIONS,
    MAX_HEADER_BYTES,
    HttpLimits,
)
from gateway.http.page import page_router
from gateway.http.server import BACKLOG, HttpServer
from gateway.key_watch import KeyWatch
from gateway.lag import Lag
from gateway.local_prefill import LocalPrefillMode
from gateway.metrics_page import GatewayCollector
from gateway.outcomes import Outcomes, OutcomesCollector
from gateway.page.feed import Feed
from gateway.page.viewers import Viewers
from gateway.policies import queue_policy
from gateway.refusals import Refusals
from gateway.scheduler import Scheduler
from gateway.shared_state import Limits
from gateway.standby import Standby
from gateway.tenants import ONE_TENANT, Tenants
from gateway.timeline import Timeline
from gateway.tracing.setup import open_tracing
from gateway.tracing.trace import Tracing
from tandem.artifacts.grammars import GrammarCompiler
from tandem.artifacts.resolve import resolve
from tandem.artifacts.sampling_defaults import SamplingDefaults
from tandem.core.address import Address, is_loopback, parse_address
from tandem.core.errors import ConfigError, Unavailable
from tandem.core.worker import WorkerRole
from tandem.process.grpc_server import GrpcServer
from tandem.process.host import raise_open_files
from tandem.process.lifetime import StopSignals, settle
from tandem.process.logged_progress import LoggedProgress
from tandem.process.metrics import MetricsPage
from tandem.process.settings import MAX_DRAIN_TIMEOUT_S, Host, ServiceSettings
from tandem.v1 import admin_pb2, admin_pb2_grpc, inference_pb2, inference_pb2_grpc
from tandem.wire.tls import Role

log = structlog.get_logger(__name__)

SERVICE = inference_pb2.DESCRIPTOR.services_by_name["InferenceService"].full_name
ADMIN_SERVICE = admin_pb2.DESCRIPTOR.services_by_name["AdminService"].full_name
# A prompt of MAX_PROMPT_CHARS fits, at up to four bytes a character.
MAX_REQUEST_BYTES = 5 * 2**20
# Files and connections that are not clients' of HTTP.
RESERVED_FILES = 256
# Of the first number of a sequence: whichever gateways follow each other, by whatever clocks, none
# repeats another's. All their numbers are exact in a browser, too, which has 53 bits.
FIRST_ID_BITS = 52
# How long clients have to read that the gateway stops.
STOP_GRACE_S = 1.0


class GatewaySettings(ServiceSettings):
    """Settings of the gateway."""

    # No prefill workers are some that compute prompts as well.
    kept_if_empty = ServiceSettings.kept_if_empty | {
        "prefill",
        "decode",
        "tenants",
        "api_key",
        "api_keys",
    }

    host: Host = Field("127.0.0.1", description="address to listen on")
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
        "max_tokens_in_flight; requests name theirs in X-Tandem-Tenant, or their keys do",
    )
    api_key: SecretStr | None = Field(
        None,
        description="whoever asks must have this key, or one of --api-keys; by TANDEM_API_KEY, and "
        "not here, where all users of the machine can read it",
    )
    api_keys: Path | None = Field(
        None,
        description="file of API keys and their tenants, which `tandem keys` writes; changes count "
        "within two seconds",
    )
    local_prefill: LocalPrefillMode = Field(
        "auto",
        description="auto: a decode worker computes short prompts that it is sooner with, any "
        "while nothing runs there, and the last of those that wait for the prefill workers; idle: "
        "only while nothing runs there; off: none",
    )
    tpot_target_ms: float | None = Field(
        None,
        gt=0,
        description="milliseconds that a token may take after an answer's first: steps of decode "
        "workers take as many prompt tokens beside running answers as leave them this",
    )
    on_bad_kv: Literal["recompute", "fail"] = Field(
        "recompute",
        description="KV that comes damaged from a prefill worker is computed again, or its request "
        "fails with DATA_LOSS",
    )
    self_check: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of the answers that idle decode workers generate once more, to compare "
        "the tokens",
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
    generation_config: Literal["auto", "none"] = Field(
        "auto", description="sampling for requests that do not say; auto: the model's own defaults"
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
    keep_alive_s: int = Field(
        KEEP_ALIVE_S,
        ge=1,
        description="seconds that an HTTP connection may be idle; more than a load balancer's",
    )
    otlp_endpoint: str | None = Field(
        None,
        description="OpenTelemetry collector that traces go to, by gRPC: http://HOST:4317; so does "
        "OTEL_EXPORTER_OTLP_ENDPOINT; without either nothing is traced",
    )
    trace_sample: float | None = Field(
        None,
        ge=0,
        le=1,
        description="share of the requests that are traced, of those that bring no traceparent "
        "(default: OTEL_TRACES_SAMPLER, or all)",
    )
    drain_delay: float = Field(
        0.0,
        ge=0,
        le=MAX_DRAIN_TIMEOUT_S,
        description="seconds after SIGTERM, of --drain-timeout, in which /ready says 503 and new "
        "requests are still served, for load balancers to take notice",
    )
    standby: bool = Field(
        False,
        description="leave the workers alone while another gateway controls them, and take over "
        "when it is gone",
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
            keep_alive_s=self.keep_alive_s,
        )

    def read_access(self) -> Access:
        """Who may ask, and who shares the workers. Raises `ConfigError`."""
        return read_access(self.tenants, self.key_sources())

    def key_sources(self) -> KeySources:
        """Where keys come from."""
        key = self.api_key.get_secret_value() if self.api_key is not None else None
        return KeySources(self.api_keys, key)

    def scheduler(self, tenants: Tenants = ONE_TENANT) -> Scheduler:
        """As the settings ask for it. Raises `ConfigError` for a policy that is not known."""
        tpot_target_s = (self.tpot_target_ms or 0.0) / 1e3
        colocated = colocated_policy(
            self.batching, self.max_batch_tokens, self.prefill_token_budget, tpot_target_s
        )
        return Scheduler(
            queue_policy(self.policy),
            Limits(max_batch_tokens=self.max_batch_tokens, max_queue=self.max_queue),
            first_id=secrets.randbits(FIRST_ID_BITS),
            colocated=None if _parts(self.prefill) else colocated,
            local_prefill=self.local_prefill,
            tpot_target_s=tpot_target_s,
            tenants=tenants,
            recompute_bad_kv=self.on_bad_kv == "recompute",
            self_check_rate=self.self_check,
        )


@dataclass(frozen=True)
class Gateway:
    """All parts, put together."""

    settings: GatewaySettings
    listener: socket.socket
    timeline: Timeline
    lag: Lag
    dispatcher: Dispatcher
    standby: Standby | None
    key_watch: KeyWatch
    discovery: Discovery
    frontend: Frontend
    grpc_server: GrpcServer
    http_server: HttpServer
    tracing: Tracing

    async def run(self) -> None:
        """Serve until told to stop. Raises `Unavailable` if another gateway took the workers."""
        await self.grpc_server.start([SERVICE, ADMIN_SERVICE])
        settle()
        self.dispatcher.start()
        signals = StopSignals()
        replaced: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.TaskGroup() as tasks:
                serving = tasks.create_task(self.http_server.serve([self.listener]))
                stopping = tasks.create_task(signals.asked.wait())
                searching = tasks.create_task(self.discovery.run(), name="discovery")
                measuring = tasks.create_task(self.lag.run(), name="lag")
                watching = tasks.create_task(self.key_watch.run(), name="keys")
                if self.standby:
                    replaced = tasks.create_task(self.standby.run(), name="standby")
                ends: set[asyncio.Future[Any]] = {serving, stopping, replaced}
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
                stopping.cancel()
                await self._leave()
                if not (serving.done() or replaced.done()):
                    await signals.wait_for(self._finish(), self.settings.drain_timeout)
                self.dispatcher.drain()
                searching.cancel()
                measuring.cancel()
                watching.cancel()
                replaced.cancel()
                await self._end_all()
        finally:
            await self.dispatcher.stop()
            self.frontend.close()
            self.timeline.close()
            await self.tracing.close()
        if not replaced.cancelled():
            raise Unavailable(f"{replaced.result()} has taken the workers over")

    async def _leave(self) -> None:
        """Tell whoever asks whether to send requests here."""
        await self.grpc_server.drain()
        self.dispatcher.leave()
        self.http_server.drain()

    async def _finish(self) -> None:
        """Once those who ask have had their time, refuse new requests, and wait for the others."""
        await asyncio.sleep(self.settings.drain_delay)
        self.dispatcher.drain()
        await self.frontend.idle()

    async def _end_all(self) -> None:
        """Clients are told before their connections end."""
        self.dispatcher.end_all()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.grpc_server.stop())
            with suppress(TimeoutError):
                async with asyncio.timeout(STOP_GRACE_S):
                    await self.frontend.idle()
            self.http_server.should_exit = True


async def serve(settings: GatewaySettings) -> None:
    """Run the gateway until it is told to stop. Raises `ConfigError`, and `Unavailable` if it was
    replaced by a gateway that stood by."""
    await put_together(settings).run()


def put_together(settings: GatewaySettings) -> Gateway:
    """The gateway that the settings ask for. Raises `ConfigError`."""
    names = settings.workers()
    if settings.drain_delay and settings.drain_delay >= settings.drain_timeout:
        raise ConfigError("it is part of --drain-timeout, and less", param="drain_delay")
    identity = settings.read_identity(Role.GATEWAY)
    access = settings.read_access()
    if access.is_open and not is_loopback(settings.host):
        log.warning("NO API KEYS: whoever reaches this address is served", host=settings.host)
    scheduler = settings.scheduler(access.tenants)
    folder = resolve(settings.model, LoggedProgress())
    listener = _listen(settings.host, settings.http_port)
    timeline = Timeline()
    lag = Lag()
    dispatcher = Dispatcher(
        scheduler,
        (),
        folder.fingerprint,
        timeline,
        identity=identity,
        lag=lag,
        model_name=folder.name,
        tokenizer_fingerprint=folder.tokenizer_fingerprint,
    )
    tracing = open_tracing(settings.otlp_endpoint, settings.trace_sample, dispatcher.controller_id)
    standby = Standby(dispatcher, dispatcher.controller_id, identity) if settings.standby else None
    tokenizer = folder.tokenizer()
    grammars = GrammarCompiler(tokenizer, folder.config.vocab_size, folder.config.eos_token_ids)
    uses_defaults = settings.generation_config == "auto"
    defaults = SamplingDefaults.read(folder.path) if uses_defaults else SamplingDefaults()
    frontend = Frontend(
        dispatcher, tokenizer, grammars, settings.tool_format, access, tracing, defaults
    )
    discovery = Discovery(names, standby or dispatcher)
    by_http, by_grpc = http_outcomes(), grpc_outcomes()
    metrics = MetricsPage(
        GatewayCollector(scheduler, dispatcher.metrics, lag, folder.name),
        FleetCollector(
            dispatcher,
            discovery.num_addresses,
            lambda: standby is not None and not standby.in_charge,
        ),
        OutcomesCollector(by_http, by_grpc),
    )
    viewers = Viewers(
        lambda: Feed(scheduler, dispatcher.metrics, timeline).tick, lambda: dispatcher.draining
    )
    refusals = dispatcher.refusals
    app = create_app(frontend, dispatcher, metrics, refusals)
    app.include_router(page_router(viewers, refusals))
    app.include_router(admin_router(dispatcher, access, refusals))
    return Gateway(
        settings=settings,
        listener=listener,
        timeline=timeline,
        lag=lag,
        dispatcher=dispatcher,
        standby=standby,
        key_watch=KeyWatch(settings.key_sources(), access),
        discovery=discovery,
        frontend=frontend,
        grpc_server=_grpc_server(
            settings, access, refusals, by_grpc, frontend, dispatcher, timeline
        ),
        http_server=HttpServer(app, settings.http_limits(), lag, access, refusals, by_http),
        tracing=tracing,
    )


def _grpc_server(
    settings: GatewaySettings,
    access: Access,
    refusals: Refusals,
    outcomes: Outcomes,
    frontend: Frontend,
    dispatcher: Dispatcher,
    timeline: Timeline,
) -> GrpcServer:
    grpc_server = GrpcServer(
        str(Address(settings.host, settings.grpc_port)),
        MAX_REQUEST_BYTES,
        interceptors=[
            CountedCalls(outcomes),
            AccessInterceptor(access, refusals),
            CallLimit(access, refusals),
            SizeLimit(),
        ],
        max_calls=MAX_CALLS + SPARE_CALLS,
    )
    inference_pb2_grpc.add_InferenceServiceServicer_to_server(
        InferenceServicer(frontend, dispatcher, timeline.read), grpc_server.server
    )
    admin_pb2_grpc.add_AdminServiceServicer_to_server(AdminServicer(dispatcher), grpc_server.server)
    return grpc_server


def _listen(host: str, port: int) -> socket.socket:
    """Raises `ConfigError` if the port cannot be had: before any work is done for it."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        # Whoever names all of IPv6's addresses means IPv4's as well.
        return socket.create_server(
            (host, port), family=family, backlog=BACKLOG, dualstack_ipv6=host == "::"
        )
    except OSError as error:
        address = Address(host, port)
        raise ConfigError(
            f"cannot listen on {address}: {error.strerror}", param="http_port"
        ) from None


def _parts(text: str) -> list[str]:
    return [part for each in text.split(",") if (part := each.strip())]
