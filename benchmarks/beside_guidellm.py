"""`tandem bench serve` beside guidellm: two load tools, one server, one mix, in turns.

Both send text of so many tokens to `/v1/completions`, so many at a time, and take the answers'
times. No two runs of a load are alike, so each tool is held against the server's own account of
the very requests that it sent (`/metrics`, before and after): a tool's mean TTFT and mean TPOT, by
the server's, are 1 and a little, the same little for both. guidellm has an environment of its own
(`make test-clients` makes it), and is found on the PATH.

    PATH=.venv/load-tools/bin:$PATH .venv/bin/python benchmarks/beside_guidellm.py
        [--rounds 3] [--requests 16] [--topology 1p1d] [--device cpu] [--model default]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import statistics
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx2
import uvloop

from tandem.artifacts.resolve import resolve
from tandem.bench.arms import parse_arm
from tandem.bench.markdown import markdown_table
from tandem.bench.report.load_report import read_report
from tandem.bench.report.metrics_text import Change, Metrics
from tandem.bench.server import cancel_when_told_to_stop, running

COMPLETIONS = "/v1/completions"
HEADINGS = ("Tool", "Requests", "Tokens", "Time", "Mean, ms", "The server's", "Ratio", "By rounds")
# guidellm's "inter token latency" is the mean of a request's tokens after the first, as TPOT is.
HISTOGRAMS = {
    "TTFT": "vllm:time_to_first_token_seconds",
    "TPOT": "vllm:request_time_per_output_token_seconds",
}

# Of a request: its tokens, TTFT and TPOT in milliseconds.
Times = tuple[int, float, float]


@dataclass(frozen=True)
class Round:
    """One run of a tool: the requests as it saw them, and the server's means, in milliseconds."""

    times: list[Times]
    server_ms: tuple[float, float]


@dataclass(frozen=True)
class Mix:
    """Tokens of each prompt and answer; how many requests, and how many at a time."""

    num_prompt: int = 128
    num_output: int = 32
    concurrency: int = 4
    num_requests: int = 16

    def flags(self) -> tuple[str, ...]:
        """`tandem bench serve`'s."""
        return (
            *("--prompt-tokens", str(self.num_prompt), "--output-tokens", str(self.num_output)),
            *("--concurrency", str(self.concurrency), "--requests", str(self.num_requests)),
            "--no-probe",
        )


def guidellm_command(
    url: str, model: Path, mix: Mix, report: Path, request_format: str = COMPLETIONS
) -> list[str]:
    """Its command for the same mix, which writes its own report."""
    program = shutil.which("guidellm")
    assert program, "guidellm is not here: run `make test-clients`"
    lengths = f"prompt_tokens={mix.num_prompt},output_tokens={mix.num_output}"
    return [
        *(program, "run", "--disable-console"),
        *("--backend", f"kind=openai_http,target={url},request_format={request_format}"),
        *("--profile", f"kind=concurrent,streams={mix.concurrency}"),
        *("--constraint", f"kind=max_requests,count={mix.num_requests}"),
        *("--tokenizer", f"kind=huggingface_auto,model={model}"),
        *("--data", f"kind=synthetic_text,{lengths}"),
        *("--output", f"kind=json,path={report}"),
    ]


def ours(url: str, model: Path, mix: Mix, report: Path, seed: int) -> list[str]:
    """Our own, with other prompts in each round."""
    return [
        *(sys.executable, "-P", "-m", "tandem.cli", "bench", "serve", "--url", url, "--text"),
        *("--tokenizer", str(model), *mix.flags(), "--seed", str(seed), "--out", str(report)),
    ]


def read_theirs(report: Path) -> list[Times]:
    (benchmark,) = json.loads(report.read_text())["benchmarks"]
    return [
        (each["output_tokens"], each["time_to_first_token_ms"], each["inter_token_latency_ms"])
        for each in benchmark["requests"]["successful"]
    ]


def read_ours(report: Path) -> list[Times]:
    return [
        (row.num_output, row.ttft_ms or 0.0, row.tpot_ms or 0.0)
        for row in read_report(report).requests
        if row.served
    ]


async def run(command: list[str]) -> None:
    """Raises `SystemExit` with its words if it fails."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    output, _ = await process.communicate()
    if process.returncode:
        raise SystemExit(output.decode(errors="replace"))


async def main(args: argparse.Namespace) -> None:
    cancel_when_told_to_stop()
    mix, model = Mix(num_requests=args.requests), resolve(args.model).path
    rounds: defaultdict[str, list[Round]] = defaultdict(list)
    with TemporaryDirectory(prefix="tandem-beside-") as folder:
        logs = Path(folder)
        flags = ("--device", args.device, "--model", args.model)
        async with (
            running(parse_arm(args.topology).spec(flags, logs), logs) as server,
            httpx2.AsyncClient(base_url=f"http://127.0.0.1:{server.port}") as client,
        ):
            url, report = f"http://127.0.0.1:{server.port}", logs / "report.json"
            # To warm up.
            await run(ours(url, model, mix, report, args.rounds))
            for number in range(args.rounds):
                turns = [
                    ("guidellm", guidellm_command(url, model, mix, report), read_theirs),
                    ("tandem bench serve", ours(url, model, mix, report, number), read_ours),
                ]
                for name, command, read in turns if number % 2 else reversed(turns):
                    report.unlink(missing_ok=True)
                    before = await scrape(client)
                    await run(command)
                    after = await scrape(client)
                    rounds[name].append(Round(read(report), server_means_ms(before, after, mix)))
    print(table(rounds))


async def scrape(client: httpx2.AsyncClient) -> Metrics:
    return Metrics((await client.get("/metrics")).raise_for_status().text)


def server_means_ms(before: Metrics, after: Metrics, mix: Mix) -> tuple[float, float]:
    """TTFT and TPOT of what the server ended between the two."""
    change = Change(before, after)
    means = []
    for name in HISTOGRAMS.values():
        num = change.total(f"{name}_count")
        assert num == mix.num_requests, f"the server counts {num:.0f} requests in {name}"
        means.append(change.total(f"{name}_sum") / num * 1e3)
    return means[0], means[1]


def table(rounds: Mapping[str, Sequence[Round]]) -> str:
    """Two rows for each tool: a time, the server's of the same requests, and the ratio."""
    rows = []
    for tool, own in rounds.items():
        num_requests = sum(len(each.times) for each in own)
        num_tokens = sum(tokens for each in own for tokens, _, _ in each.times)
        for column, name in enumerate(HISTOGRAMS):
            seen = [statistics.mean(each[column + 1] for each in one.times) for one in own]
            told = [one.server_ms[column] for one in own]
            ratios = [mine / server for mine, server in zip(seen, told, strict=True)]
            mean_ms, server_ms = statistics.mean(seen), statistics.mean(told)
            counts = (str(num_requests), str(num_tokens))
            figures = (f"{mean_ms:.2f}", f"{server_ms:.2f}", f"{mean_ms / server_ms:.3f}")
            spread = f"{min(ratios):.3f} to {max(ratios):.3f}"
            rows.append([tool, *counts, name, *figures, spread])
    return markdown_table(HEADINGS, rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=16, help="of each run")
    parser.add_argument("--topology", default="1p1d", help="as `tandem bench goodput` has arms")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--model", default="default")
    uvloop.run(main(parser.parse_args()))
