"""Many mock decode workers in one process, each with its own port, engine thread and gRPC server.

    .venv/bin/python benchmarks/mock_workers.py --ports 6000 6001 --device mock:h100x100

They are the decode service's own, put together as it puts itself together; only the process is
shared, since 64 processes would not fit on a small machine.
"""

from __future__ import annotations

import argparse
import asyncio
import sys

from tandem.process.lifetime import end_with_parent

end_with_parent()

import uvloop  # noqa: E402

from decode_service.service import DecodeSettings, serve  # noqa: E402
from tandem.process.logs import configure_logging  # noqa: E402

SWITCH_INTERVAL_S = 0.0005


async def main(args: argparse.Namespace) -> None:
    settings = [
        DecodeSettings(
            port=port,
            worker_id=f"decode-{number}",
            device=args.device,
            model="mock",
            num_blocks=args.num_blocks,
            max_num_seqs=args.max_num_seqs,
            mock_verify="incremental",
        )
        for number, port in enumerate(args.ports, start=args.first)
    ]
    serving = [asyncio.create_task(serve(each)) for each in settings]
    # Of a signal only one of them hears; with it all end.
    await asyncio.wait(serving, return_when=asyncio.FIRST_COMPLETED)
    for task in serving:
        task.cancel()
    await asyncio.gather(*serving, return_exceptions=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--ports", type=int, nargs="+", required=True)
    parser.add_argument("--first", type=int, default=0, help="the first worker's number")
    parser.add_argument("--device", default="mock:h100x100")
    parser.add_argument("--num-blocks", type=int, default=4096)
    parser.add_argument("--max-num-seqs", type=int, default=256)
    arguments = parser.parse_args()
    configure_logging("warning", "console")
    # So many engines' threads share an interpreter that the event loop would wait seconds for it.
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    uvloop.run(main(arguments))
