"""The board asks for metrics that the gateway has."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from page_families import families_of_a_fleet
from queries import METRIC, check_query, names_of

BOARD = Path(__file__).parents[3] / "deploy" / "grafana" / "tandem.json"


def queries(board: dict[str, Any]) -> list[str]:
    return [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]


async def test_every_query_names_metrics_that_exist() -> None:
    known = names_of(await families_of_a_fleet())
    exprs = queries(json.loads(BOARD.read_text()))
    assert len(exprs) > 20
    for expr in exprs:
        check_query(expr, known)


def test_every_query_is_of_the_gateways_that_are_chosen() -> None:
    """Of all at first, which are those that have a metric of ours: others' vLLM has none."""
    board = json.loads(BOARD.read_text())
    variables = {each["name"]: each for each in board["templating"]["list"]}
    for name in ("job", "instance"):
        assert variables[name]["multi"] and variables[name]["includeAll"]
        assert variables[name]["query"].startswith("label_values(tandem_ready")
        # Else all would be whatever there is.
        assert "allValue" not in variables[name]
    for expr in queries(board):
        chosen = expr.count('{job=~"$job",instance=~"$instance"')
        assert chosen == len(METRIC.findall(expr)), expr


def test_what_is_of_a_gateway_or_a_worker_names_its_gateway() -> None:
    targets = [
        target
        for panel in json.loads(BOARD.read_text())["panels"]
        for target in panel.get("targets", ())
    ]
    for target in targets:
        is_summed = "sum" in target["expr"]
        assert is_summed or "{{instance}}" in target["legendFormat"], target["expr"]
        for label in re.findall(r"{{(\w+)}}", target["legendFormat"]):
            assert not is_summed or label in target["expr"], target["expr"]


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
