"""The alerts ask for metrics that the gateway has, and so does the page that tells of them."""

from __future__ import annotations

import re
from pathlib import Path

import yaml
from page_families import families, families_of_a_fleet, new_dispatcher, samples_of
from queries import check_query, names_of

ROOT = Path(__file__).parents[3]
PROMETHEUS = ROOT / "deploy" / "prometheus"
RULES = [
    rule
    for group in yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]
]


async def test_every_alert_asks_for_what_is_there() -> None:
    known = names_of(await families_of_a_fleet())
    for rule in RULES:
        assert rule.keys() - {"for"} == {"alert", "expr", "labels", "annotations"}
        if rule["expr"] != 'up{job="tandem"} == 0':
            check_query(rule["expr"], known)


def test_prometheus_reads_them() -> None:
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    assert [PROMETHEUS / name for name in config["rule_files"]] == [PROMETHEUS / "alerts.yml"]


def test_the_page_names_them() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text()
    assert set(re.findall(r"`(Tandem[A-Z]\w+)`", page)) == {rule["alert"] for rule in RULES}


async def test_what_has_not_happened_yet_is_0() -> None:
    """Or its first time would be no rise."""

    def zeros(name: str) -> set[tuple[str, ...]]:
        found = samples_of(families(dispatcher), name)
        assert set(found.values()) == {0}
        return set(found)

    dispatcher = new_dispatcher()
    results = {("same",), ("differs",), ("wrong",), ("failed",), ("dropped",)}
    assert zeros("tandem_self_checks_total") == results
    assert {("DATA_LOSS",), ("ENGINE_FAILED",)} < zeros("tandem_requests_failed_total")
    assert {("UNAVAILABLE",), ("UNAUTHENTICATED",)} < zeros("tandem_requests_refused_total")
    served = zeros("tandem_requests_total")
    assert {("stop", "local"), ("length", "disaggregated"), ("abort", "none")} < served
    reasons = {(reason,) for reason in ("stop", "length", "abort")}
    assert {labels[-1:] for labels in zeros("vllm:request_success_total")} == reasons


async def test_what_nobody_expected_is_counted_all_the_same() -> None:
    dispatcher = new_dispatcher()
    dispatcher.metrics.failed["CONFIG"] += 1
    assert samples_of(families(dispatcher), "tandem_requests_failed_total")["CONFIG",] == 1
