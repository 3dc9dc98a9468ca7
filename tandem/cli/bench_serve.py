"""`tandem bench serve`: from flags to a load, its report and its page."""

from __future__ import annotations

import re
import secrets
import sys
from dataclasses import replace
from pathlib import Path

import uvloop
from rich.console import Console

from tandem.bench.load_options import LoadOptions
from tandem.bench.load_plan import LoadPlan, plan_load
from tandem.bench.load_run import LoadSettings, run_load
from tandem.bench.report.bounds import parse_bounds
from tandem.bench.report.load_page import load_page
from tandem.bench.report.load_report import LoadReport, to_json
from tandem.bench.target import Asking, find_model, parse_target
from tandem.bench.text_prompts import PlainWords, Texts, Words
from tandem.bench.trace import digest_of, read_trace
from tandem.bench.workload import MOCK_TOKEN_IDS, TOKEN_IDS
from tandem.cli.bench_flags import ServeOptions
from tandem.cli.bench_output import print_report
from tandem.cli.bench_progress import progress
from tandem.cli.files import check_file, write_file
from tandem.cli.reaching import reaching_gateway
from tandem.cli.tables import table_console
from tandem.core.errors import ConfigError
from tandem.core.numbers import require_positive
from tandem.process.host import raise_open_files

MOCK_MODEL = "mock"
TOKENIZER_FILE = "tokenizer.json"


def run_serve(options: ServeOptions, load: LoadOptions) -> None:
    """Run the load, print and write what came of it. Raises `TandemError`; ends the process with
    status 1 if any measured answer was not what was asked for, there is none, or it was stopped."""
    console = Console(stderr=True, highlight=False)
    for path in filter(None, (options.out, options.html)):
        check_file(path)
    # A connection for each request under way.
    raise_open_files()
    report = uvloop.run(_run(options, load, console))
    try:
        _write(options, report)
    finally:
        # Last: who reads it may go away, as `head` does.
        print_report(report, table_console())
    for path in filter(None, (options.out, options.html)):
        console.print(f"wrote {path}", style="dim", markup=False)
    if report.problems() or report.stopped or not report.figures.num_requests:
        sys.exit(1)


def _write(options: ServeOptions, report: LoadReport) -> None:
    if options.out:
        write_file(options.out, to_json(report))
    if options.html:
        write_file(options.html, load_page(report).encode())


async def _run(options: ServeOptions, load: LoadOptions, console: Console) -> LoadReport:
    url = parse_target(options.url)
    plan = plan_of(options, load)
    bounds = parse_bounds(options.goodput or ())
    texts = _texts(options)
    with reaching_gateway("--url URL"):
        model, served = await find_model(url, options.api_key, options.model)
    settings = LoadSettings(
        plan=plan,
        url=url,
        asking=Asking(model, options.is_chat, load.ignore_eos, options.api_key),
        token_ids=_token_ids(options.token_ids, MOCK_MODEL in (model, *served)),
        texts=texts,
        bounds=bounds,
        timeout_s=options.timeout_s,
        has_probe=options.has_probe,
        metrics_url=options.metrics or url.metrics,
    )
    return await run_load(settings, progress(console))


def plan_of(options: ServeOptions, load: LoadOptions) -> LoadPlan:
    """The load that was asked for, and how it is asked as far as that makes it another one."""
    trace = read_trace(Path(load.trace), load.num_requests) if load.trace else None
    plan = plan_load(load, trace, prompts_of(options), secrets.token_hex(8))
    require_positive("timeout", options.timeout_s)
    path = _tokenizer_file(options)
    asked = replace(
        plan.spec,
        token_ids=options.token_ids,
        tokenizer=digest_of(path.read_bytes()) if path and path.is_file() else "",
        timeout_s=options.timeout_s,
    )
    return replace(plan, spec=asked)


def prompts_of(options: ServeOptions) -> str:
    """How prompts are put, as a report has it."""
    if options.is_chat:
        return "chat"
    if not options.is_text:
        return "ids"
    return "text" if options.tokenizer else "words"


def _texts(options: ServeOptions) -> Texts | None:
    if not (options.is_chat or options.is_text):
        if options.tokenizer:
            raise ConfigError("--tokenizer is for prompts of text: see --text and --chat")
        return None
    path = _tokenizer_file(options)
    return Words(path) if path else PlainWords()


def _tokenizer_file(options: ServeOptions) -> Path | None:
    if not options.tokenizer:
        return None
    path = Path(options.tokenizer)
    return path / TOKENIZER_FILE if path.is_dir() else path


def _token_ids(text: str, is_mock: bool) -> range:
    """`1000:30000`; if there is none, what most vocabularies have. Raises `ConfigError`."""
    if not text:
        return MOCK_TOKEN_IDS if is_mock else TOKEN_IDS
    match = re.fullmatch(r"(\d{1,7}):(\d{1,7})", text, re.ASCII)
    if match is None or int(match[1]) >= int(match[2]):
        raise ConfigError(f"no token ids: {text!r:.40}; write 1000:30000", param="token_ids")
    return range(int(match[1]), int(match[2]))
