"""Numbers out of pages of metrics."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from itertools import pairwise

from prometheus_client.parser import text_string_to_metric_families

Labels = frozenset[tuple[str, str]]


class Samples:
    """Numbers by name and labels."""

    def __init__(self, samples: Mapping[str, Mapping[Labels, float]]) -> None:
        self._samples = samples

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


class Metrics(Samples):
    """Those of one page."""

    def __init__(self, text: str) -> None:
        """Raises `ValueError` if it is no page of metrics."""
        samples: defaultdict[str, dict[Labels, float]] = defaultdict(dict)
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                samples[sample.name][frozenset(sample.labels.items())] = sample.value
        super().__init__(samples)


class Change(Samples):
    """What counters rose by from page to page, each for itself: that of a worker which is gone
    takes nothing from the others', and keeps what it had. From one that fell, since it was started
    anew, the next page counts on."""

    def __init__(self, *pages: Metrics) -> None:
        risen: defaultdict[str, defaultdict[Labels, float]] = defaultdict(
            lambda: defaultdict(float)
        )
        for before, after in pairwise(pages):
            for name, values in after._samples.items():
                then = before._of(name)
                for labels, value in values.items():
                    risen[name][labels] += max(0.0, value - then.get(labels, 0.0))
        super().__init__(risen)

    def mean(self, name: str) -> float | None:
        """Of what a histogram observed meanwhile; None if that was nothing."""
        count = self.total(f"{name}_count")
        return self.total(f"{name}_sum") / count if count else None

    def ratio(self, part: str, whole: str) -> float | None:
        """One counter's rise by another's; None if that did not rise."""
        divisor = self.total(whole)
        return self.total(part) / divisor if divisor else None
