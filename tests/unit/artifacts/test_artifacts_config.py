import math
from typing import Any

import pytest

from tandem.artifacts.config import ModelConfig
from tandem.artifacts.rope_scaling import Llama3Scaling, YarnScaling
from tandem.core.errors import ConfigError


def test_llama_with_defaults(llama: dict[str, object]) -> None:
    config = ModelConfig.from_json(llama)
    assert (config.num_layers, config.num_heads, config.num_kv_heads) == (2, 4, 2)
    assert config.head_dim == 16
    assert (config.rope_theta, config.rope_scaling) == (10_000.0, None)
    assert (config.qkv_bias, config.output_bias, config.mlp_bias) == (False,) * 3
    assert (config.qk_norm, config.tie_word_embeddings) == (False,) * 2
    assert config.windows == (None, None)
    assert config.output_token_ids is None
    hash(config)


@pytest.mark.parametrize(
    ("name", "qkv_bias", "qk_norm", "window"),
    [
        ("LlamaForCausalLM", False, False, None),
        ("MistralForCausalLM", False, False, 32),
        ("Qwen2ForCausalLM", True, False, None),
        ("Qwen3ForCausalLM", False, True, None),
    ],
)
def test_families(
    llama: dict[str, object], name: str, qkv_bias: bool, qk_norm: bool, window: int | None
) -> None:
    config = ModelConfig.from_json({**llama, "architectures": [name], "sliding_window": 32})
    assert config.qkv_bias is qkv_bias
    assert config.qk_norm is qk_norm
    assert config.windows == (window, window)


@pytest.mark.parametrize(
    ("name", "switch", "biases"),
    [
        ("LlamaForCausalLM", "attention_bias", (True, True, False)),
        ("LlamaForCausalLM", "mlp_bias", (False, False, True)),
        ("Qwen3ForCausalLM", "attention_bias", (True, True, False)),
        # Not switches of these: transformers ignores them.
        ("Qwen2ForCausalLM", "attention_bias", (True, False, False)),
        ("MistralForCausalLM", "attention_bias", (False, False, False)),
        ("Qwen3ForCausalLM", "mlp_bias", (False, False, False)),
    ],
)
def test_biases(llama: dict[str, object], name: str, switch: str, biases: tuple[bool, ...]) -> None:
    config = ModelConfig.from_json({**llama, "architectures": [name], switch: True})
    assert (config.qkv_bias, config.output_bias, config.mlp_bias) == biases


LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def test_old_and_new_spelling_of_rope_are_one(llama: dict[str, object]) -> None:
    old = llama | {"rope_theta": 5e5, "rope_scaling": {"type": "llama3", **LLAMA3}}
    new = llama | {"rope_parameters": {"rope_theta": 5e5, "rope_type": "llama3", **LLAMA3}}
    config = ModelConfig.from_json(new)
    assert config == ModelConfig.from_json(old)
    assert config.canonical_json() == ModelConfig.from_json(old).canonical_json()
    assert config.rope_theta == 5e5
    assert config.rope_scaling == Llama3Scaling(8.0, 1.0, 4.0, 64)
    hash(config)


@pytest.mark.parametrize(
    ("fields", "theta"),
    [({}, 7.0), ({"rope_theta": 8.0}, 8.0), ({"rope_scaling": {"rope_theta": 9.0}}, 9.0)],
)
def test_rope_scaling_counts_beside_the_new_spelling(
    llama: dict[str, object], fields: dict[str, Any], theta: float
) -> None:
    scaling = {"type": "llama3", **LLAMA3} | fields.get("rope_scaling", {})
    llama |= {"rope_parameters": {"rope_theta": 7.0, "rope_type": "default"}}
    config = ModelConfig.from_json(llama | fields | {"rope_scaling": scaling})
    assert (config.rope_theta, config.rope_scaling) == (theta, Llama3Scaling(8.0, 1.0, 4.0, 64))
    assert ModelConfig.from_json(llama | {"rope_scaling": {}}).rope_theta == 7.0


@pytest.mark.parametrize("rope", [{"rope_theta": 7.0, "rope_type": "default"}, {"rope_theta": 7.0}])
def test_default_rope_is_no_scaling(llama: dict[str, object], rope: object) -> None:
    config = ModelConfig.from_json(llama | {"rope_parameters": rope})
    assert (config.rope_theta, config.rope_scaling) == (7.0, None)


def test_yarn_stretches_the_context(llama: dict[str, object]) -> None:
    """As Qwen has one write it: the length stays that of before."""
    scaling = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
    config = ModelConfig.from_json(llama | {"rope_scaling": scaling})
    assert config.max_position_embeddings == 512
    assert isinstance(config.rope_scaling, YarnScaling)
    assert config.rope_scaling.attention_factor == pytest.approx(0.1 * math.log(4) + 1)
    # Told as transformers 5 also takes it: the factor from the lengths, or the length from above.
    for same in (
        {"max_position_embeddings": 512, "rope_scaling": scaling | {"factor": None}},
        {"rope_scaling": {"type": "yarn", "factor": 4.0}},
        {"original_max_position_embeddings": 128, "rope_scaling": scaling | {"type": "yarn"}},
    ):
        assert ModelConfig.from_json(llama | same) == config


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        # DeepSeek-R1-0528-Qwen3-8B's.
        ({"attn_factor": 0.8782488562869419}, 1.0),
        ({"attn_factor": 0.5, "mscale": 2.0, "mscale_all_dim": 1.0}, 0.5 * 1.2772589 / 1.1386294),
        ({"attn_factor": 0.5, "attention_factor": 1.5}, 1.5),
    ],
)
def test_yarns_attention_factor_is_multiplied_by_a_models_own(
    llama: dict[str, object], given: dict[str, float], expected: float
) -> None:
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
    config = ModelConfig.from_json(llama | {"rope_scaling": scaling | given})
    assert isinstance(config.rope_scaling, YarnScaling)
    assert config.rope_scaling.attention_factor == pytest.approx(expected)


@pytest.mark.parametrize(("factor", "length"), [(4.0, 512), (1.5, 192), (0.5, 128)])
def test_linear_scaling_stretches_the_context(
    llama: dict[str, object], factor: float, length: int
) -> None:
    scaling = {"type": "linear", "factor": factor}
    config = ModelConfig.from_json(llama | {"rope_scaling": scaling})
    assert config.max_position_embeddings == length


@pytest.mark.parametrize("key", ["type", "rope_type"])
@pytest.mark.parametrize("name", ["dynamic", "longrope", "mrope", "proportional"])
def test_other_scalings_are_refused_by_name(llama: dict[str, object], key: str, name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name!r}, expected one of the supported: .* yarn"):
        ModelConfig.from_json(llama | {"rope_scaling": {key: name, "factor": 2.0}})


@pytest.mark.parametrize("name", ["low_freq_factor", "high_freq_factor", "factor"])
@pytest.mark.parametrize("value", [None, 0, -1, "2", True, float("nan"), 10**400])
def test_a_scalings_wrong_number_is_named(
    llama: dict[str, object], name: str, value: object
) -> None:
    with pytest.raises(ConfigError, match=f"rope_scaling: '{name}'") as caught:
        scaling = {"rope_type": "llama3", **LLAMA3, name: value}
        ModelConfig.from_json(llama | {"rope_scaling": scaling})
    assert caught.value.param is None, "it is no flag"


@pytest.mark.parametrize(("eos", "expected"), [(2, {2}), ([2, 7], {2, 7}), (None, set())])
def test_eos_may_be_one_or_many(llama: dict[str, object], eos: object, expected: set[int]) -> None:
    assert ModelConfig.from_json(llama | {"eos_token_id": eos}).eos_token_ids == expected


@pytest.mark.parametrize(
    ("fields", "windows"),
    [
        ({"max_window_layers": 0}, (32, 32)),
        ({"max_window_layers": 1}, (None, 32)),
        ({"max_window_layers": 2}, (None, None)),
        ({"layer_types": ["sliding_attention", "full_attention"]}, (32, None)),
        ({"max_window_layers": 0, "use_sliding_window": False}, (None, None)),
    ],
)
def test_qwens_windows(
    llama: dict[str, object], fields: dict[str, object], windows: tuple[int | None, ...]
) -> None:
    qwen = {**llama, "architectures": ["Qwen2ForCausalLM"], "sliding_window": 32}
    config = ModelConfig.from_json(qwen | {"use_sliding_window": True} | fields)
    assert config.windows == windows


@pytest.mark.parametrize(("fields", "window"), [({}, 4096), ({"sliding_window": None}, None)])
def test_mistrals_window(
    llama: dict[str, object], fields: dict[str, object], window: int | None
) -> None:
    config = ModelConfig.from_json({**llama, "architectures": ["MistralForCausalLM"], **fields})
    assert config.windows == (window, window)


def test_qwen3_heads_are_128_wide_unless_told(llama: dict[str, object]) -> None:
    qwen = {**llama, "architectures": ["Qwen3ForCausalLM"]}
    assert ModelConfig.from_json(qwen).head_dim == 128


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hidden_size", None),
        ("hidden_size", "64"),
        ("num_attention_heads", True),
        ("num_attention_heads", 0),
        ("num_key_value_heads", 3),
        ("head_dim", 7),
        ("rms_norm_eps", -1),
        ("rope_theta", "big"),
        ("rope_scaling", 3),
        ("tie_word_embeddings", "yes"),
        ("eos_token_id", "two"),
        ("eos_token_id", 260),
        ("architectures", None),
        ("architectures", ["A", "B"]),
        ("hidden_act", "gelu"),
        ("partial_rotary_factor", 0.5),
        ("rope_theta", 1),
        ("num_hidden_layers", 10**9),
        ("max_position_embeddings", 10**18),
        ("quantization_config", {"bits": 4}),
        ("is_causal", False),
    ],
)
def test_a_wrong_field_is_named(llama: dict[str, object], field: str, value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        ModelConfig.from_json(llama | {field: value}, "here/config.json")
    assert caught.value.message.startswith(f"here/config.json: {field!r}")


def test_heads_without_items_are_refused(llama: dict[str, object]) -> None:
    """More of them than the hidden size has items, in a config that does not say how large."""
    with pytest.raises(ConfigError, match="'head_dim' is missing, expected an even number"):
        ModelConfig.from_json(llama | {"hidden_size": 2})


@pytest.mark.parametrize("name", ["linear", "yarn"])
def test_a_context_without_end_is_refused(llama: dict[str, object], name: str) -> None:
    with pytest.raises(ConfigError, match=r"'rope_scaling' .* expected a context of at most"):
        ModelConfig.from_json(llama | {"rope_scaling": {"type": name, "factor": 1e308}})


SHARED = {
    "attention_dropout": 0.0,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "torch_dtype": "bfloat16",
    "use_cache": True,
}
PUBLISHED: dict[str, dict[str, object]] = {
    "llama-2-7b": SHARED
    | {
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "max_position_embeddings": 4096,
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "num_key_value_heads": 32,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-05,
        "rope_scaling": None,
        "tie_word_embeddings": False,
        "vocab_size": 32000,
    },
    "llama-3.1-8b": SHARED
    | {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "eos_token_id": [128001, 128008, 128009],
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "max_position_embeddings": 131072,
        "mlp_bias": False,
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-05,
        "rope_scaling": LLAMA3 | {"rope_type": "llama3", "original_max_position_embeddings": 8192},
        "rope_theta": 500000.0,
        "vocab_size": 128256,
    },
    "mistral-7b-v0.1": SHARED
    | {
        "architectures": ["MistralForCausalLM"],
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "max_position_embeddings": 32768,
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-05,
        "rope_theta": 10000.0,
        "sliding_window": 4096,
        "vocab_size": 32000,
    },
    "qwen2.5-7b": SHARED
    | {
        "architectures": ["Qwen2ForCausalLM"],
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "max_position_embeddings": 32768,
        "max_window_layers": 28,
        "num_attention_heads": 28,
        "num_hidden_layers": 28,
        "num_key_value_heads": 4,
        "rms_norm_eps": 1e-06,
        "rope_scaling": {
            "factor": 4.0,
            "original_max_position_embeddings": 32768,
            "type": "yarn",
        },
        "rope_theta": 1000000.0,
        "sliding_window": 131072,
        "use_sliding_window": False,
        "vocab_size": 152064,
    },
    "qwen3-0.6b": SHARED
    | {
        "architectures": ["Qwen3ForCausalLM"],
        "attention_bias": False,
        "head_dim": 128,
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "max_position_embeddings": 40960,
        "max_window_layers": 28,
        "num_attention_heads": 16,
        "num_hidden_layers": 28,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 1000000,
        "sliding_window": None,
        "tie_word_embeddings": True,
        "use_sliding_window": False,
        "vocab_size": 151936,
    },
}


@pytest.mark.parametrize(
    ("name", "head_dim", "max_length", "window"),
    [
        ("llama-2-7b", 128, 4096, None),
        ("llama-3.1-8b", 128, 131072, None),
        ("mistral-7b-v0.1", 128, 32768, 4096),
        ("qwen2.5-7b", 128, 131072, None),
        ("qwen3-0.6b", 128, 40960, None),
    ],
)
def test_published_configs(name: str, head_dim: int, max_length: int, window: int | None) -> None:
    config = ModelConfig.from_json(PUBLISHED[name])
    assert config.head_dim == head_dim
    assert config.max_position_embeddings == max_length
    assert set(config.windows) == {window}


def test_supported_architectures_are_named(llama: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"'GPT2LMHeadModel' is not supported.*LlamaForCausalLM"):
        ModelConfig.from_json(llama | {"architectures": ["GPT2LMHeadModel"]})


@pytest.mark.parametrize("names", [None, [], ["A", "B"], "LlamaForCausalLM", [7], [["A"]]])
def test_a_missing_architecture_tells_the_supported(
    llama: dict[str, object], names: object
) -> None:
    with pytest.raises(ConfigError, match=r"Llama.*Mistral.*Qwen2.*Qwen3"):
        ModelConfig.from_json(llama | {"architectures": names})
