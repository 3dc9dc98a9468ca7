"""Runs a load, and makes its report."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from time import perf_counter, process_time
from typing import Any

from tandem.bench.answer import Answer
from tandem.bench.closed_loop import UNFINISHED, uncollected
from tandem.bench.completion_stream import OWN_FAILURE, hinted
from tandem.bench.concurrency import all_of
from tandem.bench.load_plan import LoadPlan
from tandem.bench.metrics_scraper import MetricsScraper
from tandem.bench.open_loop import OpenLoop, run_open_loop
from tandem.bench.report.bounds import Bounds
from tandem.bench.report.figures import Window, figures_of
from tandem.bench.report.limit import LoadTool, find_limit, late_bound_ms
from tandem.bench.report.load_report import SCHEMA, LoadReport, Target
from tandem.bench.report.rows import RequestRow, request_row
from tandem.bench.report.server_account import server_account
from tandem.bench.report.stats import Stats
from tandem.bench.target import Asking, TargetUrl, asking
from tandem.bench.text_prompts import Texts
from tandem.bench.watch import Asked, Watch
from tandem.bench.workload import Prompt
from tandem.core.errors import Unavailable
from tandem.core.installation import own_version
from tandem.process.stop_signals import on_stop_signals

# So long before a run starts: what is still to be done first shall make nobody late.
LEAD_S = 0.1

# Shows how far a load has come, until it is cancelled.
Look = Callable[[Watch], Coroutine[Any, Any, None]]


@dataclass(frozen=True)
class LoadSettings:
    """Who is put under which load. Requests that are not over after `timeout_s` are ended. A first
    request, which is not measured, has to be served before all others come, if `has_probe`. Without
    a `metrics_url` the server is not asked what it says of itself."""

    plan: LoadPlan
    url: TargetUrl
    asking: Asking
    token_ids: Sequence[int]
    texts: Texts | None = None
    bounds: Bounds | None = None
    timeout_s: float = 600.0
    has_probe: bool = True
    metrics_url: str = ""


async def run_load(settings: LoadSettings, look: Look | None) -> LoadReport:
    """The whole load. SIGINT, SIGTERM and SIGHUP end it early, with a report of what has come by
    then, however often they come; so does a server that is gone, in a load that is so many at a
    time.

    Raises `Unavailable` if the first request is not served, and `ConfigError` for prompts that
    cannot be made.
    """
    async with asking(settings.url, settings.asking) as ask:
        if settings.has_probe:
            await _probe(settings, Watch(ask, settings.timeout_s))
        stop = asyncio.Event()
        with on_stop_signals(stop.set):
            scraper = MetricsScraper(settings.metrics_url, settings.asking.api_key)
            watch, beside = (Watch(ask, settings.timeout_s) for _ in range(2))
            run = _Run(settings, watch, beside)
            async with scraper.scraping():
                stopped = await run.drive(look, stop)
            return run.report(scraper, stopped)


async def _probe(settings: LoadSettings, watch: Watch) -> None:
    """One request, to see whether the server serves at all."""
    prompt = settings.plan.probe(settings.token_ids, settings.texts)
    answer = Answer(prompt, perf_counter())
    await watch.ask(answer)
    if problem := answer.problem():
        raise Unavailable(f"{settings.url.base} does not serve: {hinted(problem)}")


class _Run:
    """One load under way. `beside` watches what is never measured."""

    def __init__(self, settings: LoadSettings, watch: Watch, beside: Watch) -> None:
        self._settings = settings
        self._watch = watch
        self._beside = beside
        self._began_at = datetime.now(UTC)
        self._begin()
        self._end_s = 0.0
        self._cores = 0.0
        self._stop_reason = ""

    def _begin(self) -> None:
        """From here on the load tool's time is the load's, which starts in a moment."""
        self._began_s, self._cpu_s = perf_counter(), process_time()
        self._start_s = self._began_s + LEAD_S

    async def drive(self, look: Look | None, stop: asyncio.Event) -> bool:
        """Run it to its end; whether it was stopped before."""
        driving = asyncio.create_task(self._drive())
        stopping = asyncio.create_task(stop.wait())
        tasks = [driving, stopping, *([asyncio.create_task(look(self._watch))] if look else [])]
        try:
            await asyncio.wait({driving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._end_s = perf_counter()
            self._cores = (process_time() - self._cpu_s) / (self._end_s - self._began_s)
        if driving.cancelled():
            return True
        try:
            driving.result()
        except Unavailable as error:
            self._stop_reason = error.message
        return bool(self._stop_reason)

    async def _drive(self) -> None:
        """All that takes its time before the first request is done before the clock runs."""
        settings, plan = self._settings, self._settings.plan
        asked = settings.token_ids, settings.texts
        loads = [(self._watch, plan.loop(), plan.prompts(*asked))]
        if plan.long:
            loads.append((self._beside, plan.long_loop(), plan.long_prompts(*asked)))
        with uncollected():
            self._begin()
            await all_of([self._open_loop(*each) for each in loads])

    async def _open_loop(self, watch: Watch, loop: OpenLoop, prompts: Iterator[Prompt]) -> None:
        await run_open_loop(watch.ask, loop, prompts, self._patience_s, self._start_s)

    def _patience_s(self, _: object) -> float:
        """Requests are ended by the watch: the loop has only to wait a little longer."""
        return self._settings.timeout_s + 1.0

    def report(self, scraper: MetricsScraper, stopped: bool) -> LoadReport:
        settings = self._settings
        rows = self._rows(stopped)
        window = self._window(rows)
        server = server_account(
            scraper.scrapes, *(self._start_s + at / 1e3 for at in (window.start_ms, window.end_ms))
        )
        tool = _load_tool(rows, self._cores)
        figures = figures_of(rows, window, settings.bounds)
        late_ms = late_bound_ms(settings.plan.spec.arrivals, figures.ttft_ms)
        return LoadReport(
            schema=SCHEMA,
            tandem=own_version(),
            began_at=self._began_at.isoformat(timespec="seconds"),
            target=Target(settings.url.base, self._protocol(), settings.asking.model),
            load=settings.plan.spec,
            window=window,
            bounds=settings.bounds,
            figures=figures,
            limit=find_limit(tool, server, scraper.problem, late_ms),
            tool=tool,
            server=server,
            stopped=stopped,
            stop_reason=self._stop_reason,
            requests=rows,
        )

    def _protocol(self) -> str:
        form = "chat" if self._settings.asking.is_chat else "completions"
        return f"{'gRPC' if self._settings.url.is_grpc else 'HTTP'}, {form}"

    def _rows(self, stopped: bool) -> list[RequestRow]:
        """In order of arrival. What a stop cut off is not measured."""

        def is_measured(asked: Asked) -> bool:
            answer = asked.answer
            return answer.is_measured and not (stopped and answer.error == UNFINISHED)

        asked = [(each, is_measured(each)) for each in self._watch.asked]
        asked += [(each, False) for each in self._beside.asked]
        asked.sort(key=lambda each: each[0].due_s)
        return [request_row(each, self._start_s, measured) for each, measured in asked]

    def _window(self, rows: Sequence[RequestRow]) -> Window:
        """What was asked for, or up to the last token; no longer than the run was."""
        spec = self._settings.plan.spec
        start_ms, over_ms = spec.warm_up_s * 1e3, (self._end_s - self._start_s) * 1e3
        if spec.seconds:
            end_ms = start_ms + spec.seconds * 1e3
        else:
            ends = [row.due_ms + (row.latency_ms or 0.0) for row in rows if row.measured]
            end_ms = max(ends, default=over_ms)
        return Window(round(start_ms, 3), round(max(start_ms, min(end_ms, over_ms)), 3))


def _load_tool(rows: Sequence[RequestRow], cores: float) -> LoadTool:
    late = Stats.of([row.late_ms for row in rows])
    times = (late.p50, late.p99, late.max) if late else (0.0, 0.0, 0.0)
    num_unsent = sum(row.problem.startswith(OWN_FAILURE) for row in rows)
    return LoadTool(*times, cores=round(cores, 3), num_unsent=num_unsent)
