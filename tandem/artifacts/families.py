"""The architectures that are supported, and how the models of each differ from Llama's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tandem.artifacts.json_object import JsonObject

MOCK = "MockForCausalLM"
# What transformers assumes for a Mistral that does not say; later Mistrals say null.
DEFAULT_MISTRAL_WINDOW = 4096
FULL, SLIDING = "full_attention", "sliding_attention"

Windows = tuple[int | None, ...]
"""As in `ModelConfig`."""


def _no_windows(_fields: JsonObject, num_layers: int) -> Windows:
    return (None,) * num_layers


def _mistral_windows(fields: JsonObject, num_layers: int) -> Windows:
    if "sliding_window" not in fields.data:
        return (DEFAULT_MISTRAL_WINDOW,) * num_layers
    window = fields.positive("sliding_window") if fields.has("sliding_window") else None
    return (window,) * num_layers


def _qwen_windows(fields: JsonObject, num_layers: int) -> Windows:
    if not fields.flag("use_sliding_window"):
        return (None,) * num_layers
    window = fields.positive("sliding_window")
    kinds = _layer_types(fields, num_layers)
    return tuple(window if kind == SLIDING else None for kind in kinds)


def _layer_types(fields: JsonObject, num_layers: int) -> list[str]:
    """Named since transformers 5; before, all from `max_window_layers` on slide."""
    if not fields.has("layer_types"):
        first = fields.integer("max_window_layers")
        return [SLIDING if layer >= first else FULL for layer in range(num_layers)]
    kinds = fields.data["layer_types"]
    if not isinstance(kinds, list) or len(kinds) != num_layers:
        raise fields.wrong("layer_types", f"a list of {num_layers}")
    if not all(kind in (FULL, SLIDING) for kind in kinds):
        raise fields.wrong("layer_types", f"only {FULL!r} and {SLIDING!r}")
    return kinds


@dataclass(frozen=True, slots=True)
class Family:
    """`switches` are the flags of a config that count: `attention_bias` adds biases to all four of
    attention's projections, `mlp_bias` to those behind. `qkv_bias` and `qk_norm` as in
    `ModelConfig`, which no config tells. `head_dim` is that of a config without one; None: the
    hidden size by the heads."""

    switches: tuple[str, ...] = ()
    qkv_bias: bool = False
    qk_norm: bool = False
    head_dim: int | None = None
    windows: Callable[[JsonObject, int], Windows] = _no_windows

    def switched(self, fields: JsonObject, name: str) -> bool:
        return name in self.switches and fields.flag(name)


FAMILIES: Mapping[str, Family] = {
    "LlamaForCausalLM": Family(switches=("attention_bias", "mlp_bias")),
    "MistralForCausalLM": Family(windows=_mistral_windows),
    "Qwen2ForCausalLM": Family(qkv_bias=True, windows=_qwen_windows),
    "Qwen3ForCausalLM": Family(
        switches=("attention_bias",), qk_norm=True, head_dim=128, windows=_qwen_windows
    ),
    MOCK: Family(),
}
