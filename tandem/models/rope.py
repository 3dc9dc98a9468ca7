"""Rotary position embedding, plain or scaled for a longer context."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tandem.artifacts.config import ModelConfig
from tandem.core.errors import ConfigError


class RotaryEmbedding:
    """The rotations of positions `[0, num_positions)`, as float32 tables."""

    def __init__(self, config: ModelConfig, num_positions: int, device: torch.device) -> None:
        positions = torch.arange(num_positions, dtype=torch.float32)
        # The angles in float32, as in training. Their cosines by numpy, in float64, on one thread:
        # a position's bits must depend neither on the table's length nor on the number of threads.
        angles = torch.outer(positions, inverse_frequencies(config)).numpy().astype(np.float64)
        self._cos = _table(np.cos(angles), np.cos(angles), device)
        self._sin = _table(-np.sin(angles), np.sin(angles), device)

    def rotations(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and signed sines, each [rows, 1, head_dim], of `positions` [rows]."""
        return self._cos[positions].unsqueeze(1), self._sin[positions].unsqueeze(1)


def rotate(x: Tensor, rotations: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate the halves of each head of `x` [rows, heads, head_dim], in float32."""
    cos, sin = rotations
    # Two roundings, never a fused multiply-add: the same bits in vector loops and in their ends.
    return (x * cos + x.roll(x.shape[-1] // 2, dims=-1) * sin).to(x.dtype)


def inverse_frequencies(config: ModelConfig) -> Tensor:
    """[head_dim / 2] radians per position. Raises `ConfigError` on a scaling it does not know."""
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
    frequencies = 1.0 / (config.rope_theta**exponents)
    scaling = config.rope_scaling
    if scaling is None:
        return frequencies
    match scaling.get("rope_type"):
        case "linear":
            return frequencies / _number(scaling, "factor")
        case "llama3":
            return _llama3(frequencies, scaling)
    raise ConfigError(
        f"RoPE scaling {scaling.get('rope_type')!r} is not supported: linear and llama3 are",
        param="rope_scaling",
    )


def _llama3(frequencies: Tensor, scaling: Mapping[str, object]) -> Tensor:
    """Slow rotations are slowed by `factor`, fast ones kept, those between interpolated."""
    factor, low, high, trained_length = (
        _number(scaling, name)
        for name in (
            "factor",
            "low_freq_factor",
            "high_freq_factor",
            "original_max_position_embeddings",
        )
    )
    wavelengths = 2 * math.pi / frequencies
    smooth = ((trained_length / wavelengths - low) / (high - low)).clamp(0, 1)
    return (1 - smooth) * frequencies / factor + smooth * frequencies


def _number(scaling: Mapping[str, object], name: str) -> float:
    value = scaling.get(name)
    if not isinstance(value, int | float) or value <= 0:
        raise ConfigError(f"RoPE scaling needs a positive {name}", param=f"rope_scaling.{name}")
    return float(value)


def _table(first: NDArray[np.float64], second: NDArray[np.float64], device: torch.device) -> Tensor:
    both = np.concatenate([first, second], axis=-1).astype(np.float32)
    return torch.from_numpy(both).to(device)
