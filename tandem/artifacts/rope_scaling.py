"""Rotary embedding stretched to a longer context than a model was first trained for."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass

from tandem.artifacts.json_object import JsonObject

LENGTH = "max_position_embeddings"
ORIGINAL_LENGTH = "original_max_position_embeddings"
# YaRN's own defaults: rotations over the trained length above which a frequency is kept, and below
# which it is slowed in full.
BETA_FAST = 32.0
BETA_SLOW = 1.0


@dataclass(frozen=True, slots=True)
class LinearScaling:
    """All rotations are slowed by `factor`."""

    factor: float


@dataclass(frozen=True, slots=True)
class Llama3Scaling:
    """Slow rotations are slowed by `factor`, fast ones kept, those between interpolated. Which are
    which is told by how often they turn over the `original_max_position_embeddings`."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int


@dataclass(frozen=True, slots=True)
class YarnScaling:
    """As Llama 3's, but interpolated over the index of the frequency; cosines and sines are scaled
    by `attention_factor` besides. `truncate` rounds the borders to whole indices."""

    factor: float
    original_max_position_embeddings: int
    beta_fast: float
    beta_slow: float
    attention_factor: float
    truncate: bool


RopeScaling = LinearScaling | Llama3Scaling | YarnScaling


def read_rope_scaling(scaling: JsonObject, config: JsonObject) -> RopeScaling | None:
    """The scaling that `rope_scaling` or `rope_parameters` of `config` describe; None if they
    describe plain rotary embedding. Raises `ConfigError` naming what is missing or not supported.
    """
    match _rope_type(scaling):
        case "default":
            return None
        case "linear":
            return LinearScaling(scaling.positive_number("factor"))
        case "llama3":
            return _llama3(scaling, config)
        case "yarn":
            return _yarn(scaling, config)
    name = "rope_type" if scaling.has("rope_type") else "type"
    raise scaling.wrong(name, "one of the supported: default, linear, llama3, yarn")


def stretched_length(scaling: RopeScaling | None, max_positions: int) -> int:
    """How many positions a model takes whose config says `max_positions`.

    That of a linear scaling names the length before stretching, as vLLM has it; with YaRN it may,
    as Qwen's instructions have it.
    """
    match scaling:
        case LinearScaling(factor):
            return max(max_positions, _stretched(max_positions, factor))
        case YarnScaling(factor, original):
            return max(max_positions, _stretched(original, factor))
    return max_positions


def _stretched(length: int, factor: float) -> int:
    """Of a factor beyond all measure more than any model has, and no infinity."""
    return int(min(length * factor, sys.maxsize))


def _rope_type(scaling: JsonObject) -> str:
    """Older configs say `type`. One that says neither only holds `rope_theta`."""
    if scaling.has("rope_type"):
        return scaling.text("rope_type")
    return scaling.text("type") if scaling.data.keys() - {"rope_theta"} else "default"


def _llama3(scaling: JsonObject, config: JsonObject) -> Llama3Scaling:
    low = scaling.positive_number("low_freq_factor")
    high = scaling.positive_number("high_freq_factor")
    if high <= low:
        raise scaling.wrong("high_freq_factor", f"more than low_freq_factor, {low}")
    factor = scaling.positive_number("factor")
    return Llama3Scaling(factor, low, high, _original_length(scaling, config))


def _yarn(scaling: JsonObject, config: JsonObject) -> YarnScaling:
    original = _original_length(scaling, config)
    if scaling.has("factor"):
        factor = scaling.positive_number("factor")
    else:
        factor = config.positive(LENGTH) / original
    return YarnScaling(
        factor=factor,
        original_max_position_embeddings=original,
        beta_fast=scaling.positive_number("beta_fast", BETA_FAST),
        beta_slow=scaling.positive_number("beta_slow", BETA_SLOW),
        attention_factor=_attention_factor(scaling, factor),
        truncate=scaling.flag("truncate", default=True),
    )


def _original_length(scaling: JsonObject, config: JsonObject) -> int:
    """Told beside the scaling, in it, or the same as the length now: in this order, as
    transformers has it."""
    for each in (config, scaling):
        if each.has(ORIGINAL_LENGTH):
            return each.positive(ORIGINAL_LENGTH)
    return config.positive(LENGTH)


def _attention_factor(scaling: JsonObject, factor: float) -> float:
    """Sharpens attention over more positions, as YaRN's paper suggests, unless it is given; what is
    suggested is multiplied by `attn_factor`, as vLLM, SGLang and llama.cpp have it (transformers
    overlooks it): by this DeepSeek-R1-0528-Qwen3-8B asks for no sharpening."""
    if scaling.has("attention_factor"):
        return scaling.positive_number("attention_factor")
    own = scaling.positive_number("attn_factor", 1.0)
    if scaling.has("mscale") and scaling.has("mscale_all_dim"):
        both = (scaling.positive_number(name) for name in ("mscale", "mscale_all_dim"))
        above, below = (_mscale(factor, mscale) for mscale in both)
        return own * above / below
    return own * _mscale(factor, 1.0)


def _mscale(factor: float, mscale: float) -> float:
    return 0.1 * mscale * math.log(factor) + 1.0 if factor > 1 else 1.0
