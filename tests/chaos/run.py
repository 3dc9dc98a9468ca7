"""`make chaos`: every scenario, each try noted in FIGURES as it ends; see docs/reliability.md.

python tests/chaos/run.py                      all of it
python tests/chaos/run.py decode --tries 5     scenarios with "decode" in their names
python tests/chaos/run.py --table              docs/reliability.md from what is noted
python tests/chaos/run.py --figures FILE       noted there, and not in the page: a busy machine's

Exit status: 0 if all was survived, and in time; 1 if not; 3 if so, but partitions and slow links
were skipped, which need root and network namespaces.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "support")]

from catalogue import SCENARIOS, Scenario, play  # noqa: E402
from namespaces import GATEWAY, can_make_namespaces  # noqa: E402
from network_faults import NETWORK  # noqa: E402
from outcome import Outcome, append, read, table, without_run  # noqa: E402
from stack import silence_logs  # noqa: E402

ROOT = HERE.parent.parent
FIGURES = ROOT / "docs" / "figures" / "chaos.jsonl"
PAGE = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- table: make chaos -->", "<!-- end of table -->"
# argparse ends with 2.
CLEAN, NOT_CLEAN, SKIPPED = 0, 1, 3


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
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
    status = CLEAN
    if not options.table:
        silence_logs()
        here = [each for each in chosen if each.in_namespaces is options.inside]
        elsewhere = [each for each in chosen if each.in_namespaces and not options.inside]
        note = partial(append, options.figures)
        clean = asyncio.run(run_all(here, options.tries, options.seed, note))
        status = worse(CLEAN if clean else NOT_CLEAN, run_in_namespaces(elsewhere))
    if options.figures == FIGURES:
        render()
    return status


def worse(one: int, other: int) -> int:
    """Of two exit statuses: what failed is not hidden by what was skipped."""
    return next((each for each in (one, other) if each not in (CLEAN, SKIPPED)), max(one, other))


async def run_all(
    scenarios: Sequence[Scenario], tries: int | None, seed: int, note: Callable[[Outcome], None]
) -> bool:
    """Whether nothing was lost, and nothing took longer than it may."""
    clean = True
    for each in scenarios:
        with tempfile.TemporaryDirectory() as logs:
            outcome = await play(each, tries or each.tries, Path(logs), seed, note)
        print(table([outcome]).splitlines()[2], *each.complaints(outcome), flush=True)
        clean = clean and each.is_clean(outcome)
    return clean


def run_in_namespaces(scenarios: Sequence[Scenario]) -> int:
    """Run this command once more, inside, for the scenarios that need a network: its status."""
    if not scenarios:
        return CLEAN
    if not can_make_namespaces():
        names = "; ".join(each.name for each in scenarios)
        print(f"SKIPPED, for want of root or network namespaces: {names}", flush=True)
        return SKIPPED
    NETWORK.make()
    try:
        command = (*NETWORK.hosts[GATEWAY].command, sys.executable, *sys.argv, "--inside")
        return subprocess.run(command, check=False).returncode
    finally:
        NETWORK.remove()


def render() -> None:
    """Put the table into the page."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n\n{section(read(FIGURES))}\n\n{END}{after}")


def section(outcomes: Mapping[str, Outcome]) -> str:
    """The table of all scenarios that were run, and which were not."""
    rows = [outcomes[each.name] for each in SCENARIOS if each.name in outcomes]
    parts = (table(rows), without_run([each.name for each in SCENARIOS], outcomes))
    return "\n\n".join(filter(None, parts))


if __name__ == "__main__":
    sys.exit(main())
