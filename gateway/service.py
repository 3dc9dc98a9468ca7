"""The gateway, put together: the scheduler and its dispatcher, discovery, the frontend, and the
servers that let requests in.

A request's way through them is told in `frontend.py`.
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import structlog

from gateway.access import Access
from gateway.discovery import Discovery
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
from gateway.http.page import page_router
from gateway.http.server import BACKLOG, HttpServer
from gateway.key_watch import KeyWatch
from gateway.lag import Lag
from gateway.metrics_page import GatewayCollector
from gateway.outcomes import Outcomes, OutcomesCollector
from gateway.page.feed import Feed
from gateway.page.viewers import Viewers
from gateway.refusals import Refusals
from gateway.settings import GatewaySettings
from gateway.standby import Standby
from gateway.timeline import Timeline
from gateway.tracing.setup import open_tracing
from gateway.tracing.trace import Tracing
from tandem.artifacts.grammars import GrammarCompiler
from tandem.artifacts.resolve import resolve
from tandem.artifacts.sampling_defaults import SamplingDefaults
from tandem.core.address import Address, is_loopback
from tandem.core.errors import ConfigError, Unavailable
from tandem.process.grpc_server import GrpcServer
from tandem.process.lifetime import StopSignals, settle
from tandem.process.logged_progress import LoggedProgress
from tandem.process.metrics import MetricsPage
from tandem.process.ports import obstacle
from tandem.v1 import admin_pb2, admin_pb2_grpc, inference_pb2, inference_pb2_grpc
from tandem.wire.tls import Role

log = structlog.get_logger(__name__)

SERVICE = inference_pb2.DESCRIPTOR.services_by_name["InferenceService"].full_name
ADMIN_SERVICE = admin_pb2.DESCRIPTOR.services_by_name["AdminService"].full_name
# A prompt of MAX_PROMPT_CHARS fits, at up to four bytes a character.
MAX_REQUEST_BYTES = 5 * 2**20
# How long clients have to read that the gateway stops.
STOP_GRACE_S = 1.0


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
                self._leave()
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

    def _leave(self) -> None:
        """Tell whoever asks whether to send requests here."""
        self.grpc_server.drain()
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
    # It is kept. When somebody asked for it first it would hold all streams up.
    app.openapi()
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
        param="grpc_port",
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
        # Whose words are longer.
        why = obstacle(host, port) or error
        raise ConfigError(
            f"cannot listen on {Address(host, port)}: {why.strerror}", param="http_port"
        ) from None
