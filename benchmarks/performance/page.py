"""Puts what was found into docs/performance.md: a block of tables in the place of each mark.

A mark is a comment, `table: NAME`, and all that follows it up to `end of table` is made anew. NAME
is that of a table, of a comparison with peers (`peers`, `peers-int4`, ...), or `goals`.

    .venv/bin/python benchmarks/report.py
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from peers.goals import GOALS
from peers.records import Records
from peers.tables import overview

from performance import engine_tables, fleet_tables, gpu_tables
from performance.record import FOLDER, ROOT, Record, records
from performance.table import AnyTable, Bound
from tandem.bench.markdown import markdown_table

PAGE = ROOT / "docs" / "performance.md"
MARKED = re.compile(r"<!-- table: (\S+) -->\n.*?<!-- end of table -->", re.DOTALL)
# In the order of the goals.
TABLES: Sequence[AnyTable] = (
    engine_tables.DECODE,
    engine_tables.PREFILL,
    engine_tables.QUANTIZED,
    engine_tables.QUALITY,
    engine_tables.SAME_PRODUCTS,
    engine_tables.SAME_ATTENTION,
    engine_tables.HOST,
    engine_tables.PROMPTS,
    fleet_tables.START,
    fleet_tables.READY,
    gpu_tables.GPU_DECODE,
    gpu_tables.GPU_PREFILL,
    gpu_tables.GPU_COPIES,
    gpu_tables.GPU_MIXED,
    gpu_tables.GPU_SAMPLED,
    fleet_tables.HIDDEN,
    fleet_tables.INTERFERENCE,
    fleet_tables.PREFIXES,
    fleet_tables.WATCHING,
    fleet_tables.KV_TRANSFER,
    fleet_tables.LOOP,
    fleet_tables.COLOCATED,
)


def with_tables(text: str) -> str:
    """The page, with what is kept now."""

    def block(mark: re.Match[str]) -> str:
        tables = "\n\n".join(parts(mark[1])) or "Not measured yet."
        return f"<!-- table: {mark[1]} -->\n\n{tables}\n\n<!-- end of table -->"

    return MARKED.sub(block, text)


def parts(name: str) -> Iterator[str]:
    if name == "goals":
        yield goals()
    elif name.startswith("peers"):
        for path in sorted(FOLDER.glob(f"*/{name}.jsonl")):
            yield f"*{path.parent.name}* ([record]({path.relative_to(PAGE.parent)})):"
            yield overview(Records.read(path))
    else:
        (table,) = (each for each in TABLES if each.name == name)
        for record in records(name):
            yield caption(record)
            yield "\n".join(table.lines(record.rows_of(table)))


def caption(record: Record) -> str:
    return f"*{record.machine.name}*, {record.date}, `{record.command}`, {record.settings}:"


def goals() -> str:
    """A row for each, a column for each kind of machine, and what measures it."""
    machines = sorted({path.parent.name for path in FOLDER.glob("*/*.json*")})
    rows = [
        [bound.name, str(bound), *(reached.get(each, "") for each in machines), f"`{by}`"]
        for bound, reached, by in goals_reached()
    ]
    return markdown_table(("", "Goal", *machines, "By"), rows)


def goals_reached() -> Iterator[tuple[Bound, dict[str, str], str]]:
    """Each that was measured: how far by the machine's key, and by what command."""
    for table in TABLES:
        found = {each.machine.key: each for each in records(table.name)}
        for goal in table.goals if found else ():
            reached = {key: goal.reached(each.rows_of(table)) for key, each in found.items()}
            yield goal.bound, reached, next(iter(found.values())).script
    rounds = {each.parent.name: Records.read(each) for each in FOLDER.glob("*/peers.jsonl")}
    for beside in GOALS if rounds else ():
        reached = {key: beside.reached(each) for key, each in rounds.items()}
        yield beside.bound, reached, "make bench-peers"
