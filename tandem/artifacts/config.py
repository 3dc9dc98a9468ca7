"""A model's architecture in numbers, as its `config.json` gives it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from tandem.artifacts.json_object import JsonObject
from tandem.core.errors import ConfigError
from tandem.core.kv import KVLayout

MOCK = "MockForCausalLM"
ARCHITECTURES = (
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
    MOCK,
)
DEFAULT_ROPE_THETA = 10_000.0
# What transformers assumes for a Mistral that does not say; later Mistrals say null.
DEFAULT_MISTRAL_WINDOW = 4096


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """One of `ARCHITECTURES`, with everything that a decoder needs to know.

    `rope_scaling` is None for plain rotary embedding, else it has a `rope_type` and that type's
    parameters, in Hugging Face's names. `attention_bias` is about the q, k and v projections.
    `sliding_window` counts the tokens that a position attends to, itself included.
    `output_token_ids` is the half-open range of ids that the mock model produces, None for others.
    """

    architecture: str
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope_theta: float
    rope_scaling: Mapping[str, object] | None = field(hash=False)
    tie_word_embeddings: bool
    attention_bias: bool
    qk_norm: bool
    sliding_window: int | None
    eos_token_ids: frozenset[int]
    bos_token_id: int | None
    output_token_ids: tuple[int, int] | None = None

    @classmethod
    def from_json(cls, data: Mapping[str, object], source: str = "config.json") -> ModelConfig:
        """Read the contents of a Hugging Face `config.json`, which errors call `source`.

        Raises `ConfigError` naming the field that is missing, mistyped or not supported.
        """
        fields = JsonObject(data, source)
        architecture = _architecture(fields)
        _refuse_unsupported(fields)
        num_heads = fields.positive("num_attention_heads")
        num_layers = fields.positive("num_hidden_layers")
        hidden_size = fields.positive("hidden_size")
        rope_theta, rope_scaling = _rope(fields)
        config = cls(
            architecture=architecture,
            hidden_size=hidden_size,
            intermediate_size=fields.positive("intermediate_size"),
            num_layers=num_layers,
            num_heads=num_heads,
            num_kv_heads=_positive_or(fields, "num_key_value_heads", num_heads),
            head_dim=_positive_or(fields, "head_dim", hidden_size // num_heads),
            vocab_size=fields.positive("vocab_size"),
            max_position_embeddings=fields.positive("max_position_embeddings"),
            rms_norm_eps=fields.positive_number("rms_norm_eps"),
            rope_theta=rope_theta,
            rope_scaling=rope_scaling,
            tie_word_embeddings=fields.flag("tie_word_embeddings"),
            attention_bias=architecture == "Qwen2ForCausalLM",
            qk_norm=architecture == "Qwen3ForCausalLM",
            sliding_window=_sliding_window(fields, architecture, num_layers),
            eos_token_ids=frozenset(fields.integers("eos_token_id")),
            bos_token_id=next(iter(fields.integers("bos_token_id")), None),
            output_token_ids=_output_token_ids(fields) if architecture == MOCK else None,
        )
        config._check(fields)
        return config

    def kv_layout(self, block_size: int, dtype: str) -> KVLayout:
        """The geometry of this model's KV cache. `dtype`: a key of `ITEM_SIZES`."""
        return KVLayout(self.num_layers, self.num_kv_heads, self.head_dim, block_size, dtype)

    def canonical_json(self) -> bytes:
        """The same bytes for the same model, however its `config.json` spells it."""
        plain = asdict(self) | {"eos_token_ids": sorted(self.eos_token_ids)}
        return json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()

    def _check(self, fields: JsonObject) -> None:
        if self.num_heads % self.num_kv_heads:
            raise fields.wrong("num_key_value_heads", f"a divisor of {self.num_heads}")
        if self.head_dim % 2:
            raise fields.wrong("head_dim", "an even number")
        if any(token_id >= self.vocab_size for token_id in self.eos_token_ids):
            raise fields.wrong("eos_token_id", f"ids below the vocabulary size {self.vocab_size}")
        if self.output_token_ids and self.output_token_ids[1] > self.vocab_size:
            raise fields.wrong("output_token_ids", f"a range up to {self.vocab_size}")


def _architecture(fields: JsonObject) -> str:
    names = fields.data.get("architectures")
    if not isinstance(names, list) or len(names) != 1:
        raise fields.wrong("architectures", "a list of one name")
    if names[0] not in ARCHITECTURES:
        raise ConfigError(
            f"{fields.source}: architecture {names[0]!r:.80} is not supported; "
            f"supported are {', '.join(ARCHITECTURES)}",
            param="architectures",
        )
    return str(names[0])


def _refuse_unsupported(fields: JsonObject) -> None:
    """Variants of these architectures that the decoder would compute wrongly without a word."""
    if fields.has("hidden_act") and fields.text("hidden_act") not in ("silu", "swish"):
        raise fields.wrong("hidden_act", "'silu', the one that is supported")
    for name in ("mlp_bias", "attention_bias"):
        # Llama's and Qwen3's flag is for the output projection as well, which none here has.
        if fields.flag(name):
            raise fields.wrong(name, "false, for such biases are not supported")
    if fields.has("quantization_config"):
        raise fields.wrong("quantization_config", "no quantisation: it is not supported")


def _rope(fields: JsonObject) -> tuple[float, Mapping[str, object] | None]:
    """(theta, scaling), from `rope_parameters` (transformers 5) or the two older fields."""
    new = fields.has("rope_parameters")
    name = "rope_parameters" if new else "rope_scaling"
    scaling = fields.object(name) if fields.has(name) else None
    theta_source = scaling if new and scaling else fields
    theta = DEFAULT_ROPE_THETA
    if theta_source.has("rope_theta"):
        theta = theta_source.positive_number("rope_theta")
    return theta, _rope_scaling(scaling) if scaling else None


def _rope_scaling(scaling: JsonObject) -> Mapping[str, object] | None:
    rope_type = scaling.text("rope_type" if scaling.has("rope_type") else "type")
    if rope_type == "default":
        return None
    rest = {name: v for name, v in scaling.data.items() if name not in ("type", "rope_theta")}
    return rest | {"rope_type": rope_type}


def _sliding_window(fields: JsonObject, architecture: str, num_layers: int) -> int | None:
    if architecture == "MistralForCausalLM":
        if "sliding_window" not in fields.data:
            return DEFAULT_MISTRAL_WINDOW
        return fields.positive("sliding_window") if fields.has("sliding_window") else None
    if not architecture.startswith("Qwen") or not fields.flag("use_sliding_window"):
        return None
    # Qwen's first `max_window_layers` layers attend to everything, the others to the window.
    first = fields.integer("max_window_layers")
    if 0 < first < num_layers:
        raise fields.wrong("max_window_layers", "0: a window in some layers is not supported")
    return fields.positive("sliding_window") if first == 0 else None


def _output_token_ids(fields: JsonObject) -> tuple[int, int]:
    ids = fields.integers("output_token_ids")
    if len(ids) != 2 or ids[0] >= ids[1]:
        raise fields.wrong("output_token_ids", "[first, end) with first < end")
    return ids[0], ids[1]


def _positive_or(fields: JsonObject, name: str, default: int) -> int:
    return fields.positive(name) if fields.has(name) else default
