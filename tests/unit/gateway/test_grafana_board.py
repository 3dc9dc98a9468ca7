"""The board asks for metrics that the gateway has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from page_families import families_of_a_fleet
from queries import check_query, names_of

BOARD = Path(__file__).parents[3] / "deploy" / "grafana" / "tandem.json"


def queries(board: dict[str, Any]) -> list[str]:
    return [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]


async def test_every_query_names_metrics_that_exist() -> None:
    known = names_of(await families_of_a_fleet())
    exprs = queries(json.loads(BOARD.read_text()))
    assert len(exprs) > 20
    for expr in exprs:
        check_query(expr, known)


def test_panels_do_not_overlap_and_have_ids_of_their_own() -> None:
    panels = json.loads(BOARD.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(set(cells)) == len(cells)
