"""Sizes of batches of single tokens for which a GPU has graphs."""

from __future__ import annotations

BATCH_SIZES = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256)
