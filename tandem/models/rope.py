"""Rotary position embedding, plain or scaled for a longer context."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from tandem.artifacts.config import ModelConfig
from tandem.artifacts.rope_scaling import LinearScaling, Llama3Scaling, YarnScaling

# In float64 they take several times the room of their tables.
POSITIONS_AT_A_TIME = 1024


class RotaryEmbedding:
    """The rotations of positions `[0, num_positions)`, as float32 tables [positions, head_dim] of
    cosines and of signed sines, those of the first half of a head negative."""

    def __init__(self, config: ModelConfig, num_positions: int, device: torch.device) -> None:
        shape = num_positions, config.head_dim
        cosines, sines = torch.empty(shape), torch.empty(shape)
        frequencies, factor = inverse_frequencies(config), _attention_factor(config)
        for start in range(0, num_positions, POSITIONS_AT_A_TIME):
            end = min(start + POSITIONS_AT_A_TIME, num_positions)
            positions = torch.arange(start, end, dtype=torch.float32)
            # The angles in float32, as in training. Their cosines by numpy, in float64, on one
            # thread: a position's bits must depend neither on the table's length nor on the number
            # of threads.
            angles = torch.outer(positions, frequencies).numpy().astype(np.float64)
            cos, sin = factor * np.cos(angles), factor * np.sin(angles)
            np.concatenate([cos, cos], -1, cosines[start:end].numpy(), casting="same_kind")
            np.concatenate([-sin, sin], -1, sines[start:end].numpy(), casting="same_kind")
        self.cosines, self.sines = cosines.to(device), sines.to(device)

    def rotations(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and signed sines, each [rows, 1, head_dim], of `positions` [rows]."""
        return self.cosines[positions].unsqueeze(1), self.sines[positions].unsqueeze(1)


def rotate(x: Tensor, rotations: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate the halves of each head of `x` [rows, heads, head_dim], in float32."""
    cos, sin = rotations
    # Two roundings, never a fused multiply-add: the same bits in vector loops and in their ends.
    return (x * cos + x.roll(x.shape[-1] // 2, dims=-1) * sin).to(x.dtype)


def inverse_frequencies(config: ModelConfig) -> Tensor:
    """[head_dim / 2] radians per position."""
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
    frequencies = 1.0 / (config.rope_theta**exponents)
    match config.rope_scaling:
        case None:
            return frequencies
        case LinearScaling(factor):
            return frequencies / factor
        case Llama3Scaling() as scaling:
            return _llama3(frequencies, scaling)
        case YarnScaling() as scaling:
            return _yarn(frequencies, scaling, config)


def _llama3(frequencies: Tensor, scaling: Llama3Scaling) -> Tensor:
    wavelengths = 2 * math.pi / frequencies
    turns = scaling.original_max_position_embeddings / wavelengths
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    kept = ((turns - low) / (high - low)).clamp(0, 1)
    return (1 - kept) * frequencies / scaling.factor + kept * frequencies


def _yarn(frequencies: Tensor, scaling: YarnScaling, config: ModelConfig) -> Tensor:
    def index_of(turns: float) -> float:
        """Where in `frequencies` one turns so often over the original length."""
        length = scaling.original_max_position_embeddings
        octaves = math.log(length / (turns * 2 * math.pi)) / math.log(config.rope_theta)
        return config.head_dim * octaves / 2

    first, last = index_of(scaling.beta_fast), index_of(scaling.beta_slow)
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, config.head_dim - 1)
    indices = torch.arange(len(frequencies), dtype=torch.float32)
    # The least width is transformers'; it makes a step of a ramp between equal borders.
    width = last - first if last != first else 0.001
    slowed = ((indices - first) / width).clamp(0, 1)
    return (1 - slowed) * frequencies + slowed * frequencies / scaling.factor


def _attention_factor(config: ModelConfig) -> float:
    scaling = config.rope_scaling
    return scaling.attention_factor if isinstance(scaling, YarnScaling) else 1.0
