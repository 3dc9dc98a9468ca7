"""What a query of Prometheus asks for, against what is on the page."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from prometheus_client.core import Metric

SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}
METRIC = re.compile(r"\b(?:vllm:|tandem_)[a-z0-9_]+")
SELECTOR = re.compile(METRIC.pattern + r"\{(?P<matchers>[^}]*)\}")
MATCHER = re.compile(r"([a-z_]+)(=~|=)\"([^\"]*)\"")
GROUPING = re.compile(r"\b(?:by|on|without|group_left) \(([^)]*)\)")
# Who scrapes adds them.
TARGET_LABELS = {"job", "instance"}


def names_of(families: Iterable[Metric]) -> Mapping[str, Metric]:
    """By the names that samples have."""
    return {each.name + suffix: each for each in families for suffix in SUFFIXES[each.type]}


def labels_of(family: Metric) -> tuple[str, ...]:
    return tuple(family._labelnames)


def check_query(expr: str, families: Mapping[str, Metric]) -> None:
    """All metrics are there, with the labels that are asked for; those that a matcher names have
    such a value before anything has happened."""
    names = set(METRIC.findall(expr))
    assert names, expr
    assert not names - families.keys(), expr
    known = TARGET_LABELS.union({"le"}, *(labels_of(families[name]) for name in names))
    for labels in GROUPING.findall(expr):
        assert not set(labels.replace(" ", "").split(",")) - known, expr
    for selector in SELECTOR.finditer(expr):
        family = families[selector[0].partition("{")[0]]
        for label, operator, value in MATCHER.findall(selector["matchers"]):
            if label in TARGET_LABELS:
                continue
            values = {sample.labels.get(label) for sample in family.samples}
            assert set(value.split("|") if operator == "=~" else [value]) <= values, expr
