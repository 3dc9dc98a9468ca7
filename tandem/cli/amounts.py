"""Amounts as people read them."""

from __future__ import annotations


def format_bytes(number: float) -> str:
    """`1.5 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} TB"


def format_seconds(seconds: float) -> str:
    """`1.5 ms`."""
    for unit, factor in (("s", 1.0), ("ms", 1e3)):
        if seconds * factor >= 1:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e6:.3g} us"


def format_count(number: float) -> str:
    """`9321`, `12.3k`."""
    return f"{number:.0f}" if number < 10_000 else f"{number / 1000:.3g}k"


def format_share(share: float) -> str:
    """`93%`."""
    return f"{share:.0%}"
