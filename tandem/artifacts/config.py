"""A model's architecture in numbers, as its `config.json` gives it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from tandem.artifacts.families import FAMILIES, MOCK, Windows
from tandem.artifacts.json_object import JsonObject
from tandem.artifacts.rope_scaling import RopeScaling, read_rope_scaling, stretched_length
from tandem.core.errors import ConfigError
from tandem.core.kv import KVLayout

DEFAULT_ROPE_THETA = 10_000.0
# More than any model has: a damaged number must not make tables of its size.
MAX_LAYERS = 10_000
MAX_POSITIONS = 2**27


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """One of `FAMILIES`, with everything that a decoder needs to know.

    `max_position_embeddings` counts the positions with `rope_scaling`, which is None for plain
    rotary embedding. `qkv_bias`, `output_bias` (attention's) and `mlp_bias` say which projections
    have biases. `windows` has for each layer the number of tokens that a position attends to,
    itself included, or None for all.
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
    rope_scaling: RopeScaling | None
    tie_word_embeddings: bool
    qkv_bias: bool
    output_bias: bool
    mlp_bias: bool
    qk_norm: bool
    windows: Windows
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
        family = FAMILIES[architecture]
        _refuse_unsupported(fields)
        num_heads = fields.positive("num_attention_heads")
        num_layers = _bounded(fields, "num_hidden_layers", MAX_LAYERS)
        hidden_size = fields.positive("hidden_size")
        rope_theta, rope_scaling = _rope(fields)
        max_positions = _bounded(fields, "max_position_embeddings", MAX_POSITIONS)
        output_bias = family.switched(fields, "attention_bias")
        config = cls(
            architecture=architecture,
            hidden_size=hidden_size,
            intermediate_size=fields.positive("intermediate_size"),
            num_layers=num_layers,
            num_heads=num_heads,
            num_kv_heads=fields.positive("num_key_value_heads", num_heads),
            head_dim=fields.positive("head_dim", family.head_dim or hidden_size // num_heads),
            vocab_size=fields.positive("vocab_size"),
            max_position_embeddings=stretched_length(rope_scaling, max_positions),
            rms_norm_eps=fields.positive_number("rms_norm_eps"),
            rope_theta=rope_theta,
            rope_scaling=rope_scaling,
            tie_word_embeddings=fields.flag("tie_word_embeddings"),
            qkv_bias=output_bias or family.qkv_bias,
            output_bias=output_bias,
            mlp_bias=family.switched(fields, "mlp_bias"),
            qk_norm=family.qk_norm,
            windows=family.windows(fields, num_layers),
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
        if self.head_dim < 2 or self.head_dim % 2:
            raise fields.wrong("head_dim", "an even number of at least 2")
        if self.rope_theta <= 1:
            raise fields.wrong("rope_theta", "more than 1")
        if self.max_position_embeddings > MAX_POSITIONS:
            raise fields.wrong("rope_scaling", f"a context of at most {MAX_POSITIONS}")
        if any(token_id >= self.vocab_size for token_id in self.eos_token_ids):
            raise fields.wrong("eos_token_id", f"ids below the vocabulary size {self.vocab_size}")
        if self.output_token_ids and self.output_token_ids[1] > self.vocab_size:
            raise fields.wrong("output_token_ids", f"a range up to {self.vocab_size}")


def _architecture(fields: JsonObject) -> str:
    names = fields.data.get("architectures")
    if not isinstance(names, list) or len(names) != 1:
        raise fields.wrong("architectures", f"a list of one of {', '.join(FAMILIES)}")
    name = names[0]
    if not isinstance(name, str) or name not in FAMILIES:
        raise ConfigError(
            f"{fields.source}: architecture {name!r:.80} is not supported; "
            f"supported are {', '.join(FAMILIES)}"
        )
    return name


def _refuse_unsupported(fields: JsonObject) -> None:
    """Variants of these architectures that the decoder would compute wrongly without a word."""
    if fields.has("hidden_act") and fields.text("hidden_act") not in ("silu", "swish"):
        raise fields.wrong("hidden_act", "'silu', the one that is supported")
    if not fields.flag("is_causal", default=True):
        raise fields.wrong("is_causal", "true: attention to what comes later is not supported")
    if fields.has("quantization_config"):
        raise fields.wrong("quantization_config", "no quantisation: it is not supported")


def _rope(fields: JsonObject) -> tuple[float, RopeScaling | None]:
    """(theta, scaling), from `rope_parameters` (transformers 5) or the two older fields. Where both
    are the older ones were put there by hand, and count."""
    older, newer = (
        fields.object(name) if fields.has(name) else JsonObject({}, fields.source)
        for name in ("rope_scaling", "rope_parameters")
    )
    rope = older if older.data else newer
    for each in (fields, rope):
        if each.data.get("partial_rotary_factor", 1) not in (None, 1):
            raise each.wrong("partial_rotary_factor", "1: rotating part of a head is not supported")
    given = (each for each in (rope, fields, newer) if each.has("rope_theta"))
    theta = next((each.positive_number("rope_theta") for each in given), DEFAULT_ROPE_THETA)
    return theta, read_rope_scaling(rope, fields)


def _bounded(fields: JsonObject, name: str, limit: int) -> int:
    value = fields.positive(name)
    if value > limit:
        raise fields.wrong(name, f"at most {limit}")
    return value


def _output_token_ids(fields: JsonObject) -> tuple[int, int]:
    ids = fields.integers("output_token_ids")
    if len(ids) != 2 or ids[0] >= ids[1]:
        raise fields.wrong("output_token_ids", "[first, end) with first < end")
    return ids[0], ids[1]
