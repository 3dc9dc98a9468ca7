"""The workloads on OpenVINO GenAI without a server. Runs in OpenVINO's environment."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path
from time import perf_counter

from peers.openvino_engine import KV_PRECISION, OpenVinoEngine
from tandem.bench.answer import Answer
from tandem.bench.closed_loop import run_workload, warm_up
from tandem.bench.summary import Summary
from tandem.bench.workload import WORKLOADS


class InProcess:
    """Steps the engine as long as anyone waits for tokens."""

    def __init__(self, engine: OpenVinoEngine) -> None:
        self._engine = engine
        self._stepping: asyncio.Task[None] | None = None

    async def ask(self, answer: Answer) -> None:
        done = asyncio.Event()

        def on_tokens(count: int) -> None:
            answer.note(perf_counter(), answer.num_tokens + count)
            if answer.num_tokens >= answer.prompt.num_output:
                done.set()

        prompt = answer.prompt
        request = self._engine.add(prompt.token_ids, prompt.num_output, on_tokens)
        if self._stepping is None or self._stepping.done():
            self._stepping = asyncio.create_task(self._step())
        try:
            await done.wait()
        finally:
            self._engine.cancel(request)

    async def _step(self) -> None:
        while self._engine.has_work:
            self._engine.step()
            await asyncio.sleep(0)


async def main(args: argparse.Namespace) -> None:
    ask = InProcess(OpenVinoEngine(args.model, args.kv_precision)).ask
    for name in args.workloads:
        workload = WORKLOADS[name].scaled(args.scale)
        await warm_up(ask, workload, args.seed)
        run = await run_workload(ask, workload, args.seed)
        # There is no load tool apart from the engine whose share could be told.
        run.load_cores = 0.0
        print(Summary.of(run, workload, args.arm, args.seed).to_json(), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--kv-precision", default=KV_PRECISION)
    parser.add_argument("--arm", default="openvino in process")
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    asyncio.run(main(parser.parse_args()))
