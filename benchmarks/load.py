"""Load for any server that streams OpenAI's `/v1/completions`: workloads A to D, and their figures.

Prints a line of JSON for each run, and a table at the end. Exit status 1 if any answer was not what
was asked for: each has exactly the tokens that were wanted, or is a problem.

    .venv/bin/python benchmarks/load.py --url http://127.0.0.1:8000 [--workloads A B C D]
        [--runs 3] [--scale 1] [--model default] [--tokenizer tokenizer.json] [--out FILE]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from urllib.parse import urlsplit

import uvloop
from rich.console import Console

from tandem.bench.answer import Answer
from tandem.bench.closed_loop import Ask, run_workload, warm_up
from tandem.bench.completion_stream import Endpoint, complete
from tandem.bench.summary import Summary
from tandem.bench.summary_table import summary_table
from tandem.bench.text_prompts import Words
from tandem.bench.workload import WORKLOADS, Workload


def asking(endpoint: Endpoint, tokenizer_file: Path | None) -> Ask:
    """Prompts are token ids, unless there is a tokenizer to make them text."""
    words = Words(tokenizer_file) if tokenizer_file else None

    async def ask(answer: Answer) -> None:
        await complete(endpoint, answer, words.content(answer) if words else None)

    return ask


async def measure(ask: Ask, workload: Workload, arm: str, seed: int) -> Summary:
    """Warm up, run once."""
    await warm_up(ask, workload, seed)
    return Summary.of(await run_workload(ask, workload, seed), workload, arm, seed)


async def main(args: argparse.Namespace) -> list[Summary]:
    url = urlsplit(args.url)
    endpoint = Endpoint(url.hostname or "127.0.0.1", url.port or 80, args.model)
    ask = asking(endpoint, args.tokenizer)
    summaries = []
    for seed in range(args.seed, args.seed + args.runs):
        for name in args.workloads:
            workload = WORKLOADS[name].scaled(args.scale)
            summaries.append(await measure(ask, workload, args.arm or args.url, seed))
            print(summaries[-1].to_json(), file=args.out, flush=True)
    return summaries


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--url", required=True)
    parser.add_argument("--model", default="default", help="as the server calls it")
    parser.add_argument("--arm", default="", help="what to call the server in the figures")
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--scale", type=float, default=1.0, help="longer or shorter runs")
    parser.add_argument("--seed", type=int, default=0, help="of the first run")
    parser.add_argument("--tokenizer", type=Path, help="tokenizer.json: send prompts as text")
    parser.add_argument("--out", type=argparse.FileType("a"), default=sys.stdout)
    made = uvloop.run(main(parser.parse_args()))
    Console(width=190, stderr=True).print(summary_table(made))
    sys.exit(any(each.num_problems for each in made))
