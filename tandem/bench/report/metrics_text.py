"""Numbers out of pages of metrics."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from prometheus_client.parser import text_string_to_metric_families

Labels = frozenset[tuple[str, str]]


class Metrics:
    """The samples of one page, by name."""

    def __init__(self, text: str) -> None:
        """Raises `ValueError` if it is no page of metrics."""
        self._samples: defaultdict[str, dict[Labels, float]] = defaultdict(dict)
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                self._samples[sample.name][frozenset(sample.labels.items())] = sample.value

    def __contains__(self, name: str) -> bool:
        return name in self._samples

    def total(self, name: str, **labels: str) -> float:
        """The sum of all samples that have these labels; 0 if there are none."""
        return sum(value for found, value in self._of(name).items() if labels.items() <= set(found))

    def by(self, label: str, name: str, **labels: str) -> dict[str, float]:
        """The same for each value of one more label."""
        values: defaultdict[str, float] = defaultdict(float)
        for found, value in self._of(name).items():
            if labels.items() <= set(found):
                values[dict(found).get(label, "")] += value
        return dict(values)

    def _of(self, name: str) -> Mapping[Labels, float]:
        return self._samples.get(name, {})


class Change:
    """What counters rose by between two pages. One that fell belongs to a server that was started
    anew: it counts for nothing."""

    def __init__(self, before: Metrics, after: Metrics) -> None:
        self._before = before
        self._after = after

    def total(self, name: str, **labels: str) -> float:
        return max(0.0, self._after.total(name, **labels) - self._before.total(name, **labels))

    def by(self, label: str, name: str, **labels: str) -> dict[str, float]:
        before = self._before.by(label, name, **labels)
        after = self._after.by(label, name, **labels)
        return {key: max(0.0, value - before.get(key, 0.0)) for key, value in after.items()}

    def mean(self, name: str) -> float | None:
        """Of what a histogram observed meanwhile; None if that was nothing."""
        count = self.total(f"{name}_count")
        return self.total(f"{name}_sum") / count if count else None

    def ratio(self, part: str, whole: str) -> float | None:
        """One counter's rise by another's; None if that did not rise."""
        divisor = self.total(whole)
        return self.total(part) / divisor if divisor else None
