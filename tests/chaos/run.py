"""`make chaos`: every scenario, each try noted in FIGURES as it ends; see docs/reliability.md.

python tests/chaos/run.py                      all of it
python tests/chaos/run.py decode --tries 5     scenarios with "decode" in their names
python tests/chaos/run.py --table              docs/reliability.md from what is noted
python tests/chaos/run.py --figures FILE       noted there, and not in the page: a busy machine's
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "support")]

from catalogue import SCENARIOS, Scenario, play  # noqa: E402
from namespaces import GATEWAY, can_make_namespaces  # noqa: E402
from network_faults import NETWORK  # noqa: E402
from outcome import Outcome, append, read, table  # noqa: E402
from stack import silence_logs  # noqa: E402

ROOT = HERE.parent.parent
FIGURES = ROOT / "docs" / "figures" / "chaos.jsonl"
PAGE = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- table: make chaos -->", "<!-- end of table -->"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="parts of scenarios' names")
    parser.add_argument("--tries", type=int, help="of each scenario, instead of its own number")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--table", action="store_true", help="only the page, from what is noted")
    parser.add_argument("--figures", type=Path, default=FIGURES, help="where tries are noted")
    parser.add_argument("--inside", action="store_true", help="this is the gateway's namespace")
    options = parser.parse_args()
    chosen = [
        each
        for each in SCENARIOS
        if not options.names or any(name.lower() in each.name.lower() for name in options.names)
    ]
    clean = True
    if not options.table:
        silence_logs()
        here = [each for each in chosen if each.in_namespaces is options.inside]
        note = partial(append, options.figures)
        clean = asyncio.run(run_all(here, options.tries, options.seed, note))
        if len(here) < len(chosen) and not options.inside:
            clean = run_in_namespaces() and clean
    if options.figures == FIGURES:
        render()
    return 0 if clean else 1


async def run_all(
    scenarios: Sequence[Scenario], tries: int | None, seed: int, note: Callable[[Outcome], None]
) -> bool:
    """Whether nothing was lost."""
    clean = True
    for each in scenarios:
        with tempfile.TemporaryDirectory() as logs:
            outcome = await play(each, tries or each.tries, Path(logs), seed, note)
        print(table([outcome]).splitlines()[2], *outcome.reasons, flush=True)
        clean = clean and outcome.is_clean
    return clean


def run_in_namespaces() -> bool:
    """Run this command once more, inside, for the scenarios that need a network."""
    if not can_make_namespaces():
        print("SKIPPED: partitions and slow links need root and network namespaces", flush=True)
        return True
    NETWORK.make()
    try:
        command = (*NETWORK.hosts[GATEWAY].command, sys.executable, *sys.argv, "--inside")
        return subprocess.run(command, check=False).returncode == 0
    finally:
        NETWORK.remove()


def render() -> None:
    """Put the table into the page."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    outcomes = read(FIGURES)
    rows = [outcomes[each.name] for each in SCENARIOS if each.name in outcomes]
    PAGE.write_text(f"{before}{BEGIN}\n\n{table(rows)}\n\n{END}{after}")


if __name__ == "__main__":
    sys.exit(main())
