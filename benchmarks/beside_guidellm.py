"""`tandem bench serve` beside guidellm: two load tools, one server, one mix, in turns.

Both send text of so many tokens to `/v1/completions`, so many at a time, and take the answers'
times. Printed: each one's medians over all rounds, and the ratio of the two. guidellm has an
environment of its own (`make test-clients` makes it), and is found on the PATH.

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
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import uvloop

from tandem.artifacts.resolve import resolve
from tandem.bench.arms import parse_arm
from tandem.bench.markdown import markdown_table
from tandem.bench.report.load_report import read_report
from tandem.bench.server import cancel_when_told_to_stop, running

COMPLETIONS = "/v1/completions"
# What is compared: guidellm's "inter token latency" is the mean of a request's tokens after the
# first, as TPOT is.
HEADINGS = ("Tool", "Requests", "Tokens", "TTFT p50, ms", "TPOT p50, ms")

# Of a request: its tokens, TTFT and TPOT in milliseconds.
Times = tuple[int, float, float]


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
    times: defaultdict[str, list[Times]] = defaultdict(list)
    with TemporaryDirectory(prefix="tandem-beside-") as folder:
        logs = Path(folder)
        flags = ("--device", args.device, "--model", args.model)
        async with running(parse_arm(args.topology).spec(flags, logs), logs) as server:
            url, report = f"http://127.0.0.1:{server.port}", logs / "report.json"
            # To warm up.
            await run(ours(url, model, mix, report, args.rounds))
            for number in range(args.rounds):
                turns = [
                    ("guidellm", guidellm_command(url, model, mix, report), read_theirs),
                    ("tandem bench", ours(url, model, mix, report, number), read_ours),
                ]
                for name, command, read in turns if number % 2 else reversed(turns):
                    report.unlink(missing_ok=True)
                    await run(command)
                    times[name] += read(report)
    print(table(times["guidellm"], times["tandem bench"]))


def table(theirs: list[Times], own: list[Times]) -> str:
    """A row for each tool, and one for ours by theirs."""
    rows, medians = [], []
    for name, times in (("guidellm", theirs), ("tandem bench serve", own)):
        middle = [statistics.median(each[column] for each in times) for column in (1, 2)]
        medians.append(middle)
        tokens = sum(num_tokens for num_tokens, _, _ in times)
        rows.append([name, str(len(times)), str(tokens), *(f"{each:.2f}" for each in middle)])
    ratios = [mine / other for other, mine in zip(*medians, strict=True)]
    rows.append(["ratio", "", "", *(f"{each:.3f}" for each in ratios)])
    return markdown_table(HEADINGS, rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=16, help="of each run")
    parser.add_argument("--topology", default="1p1d", help="as `tandem bench goodput` has arms")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--model", default="default")
    uvloop.run(main(parser.parse_args()))
