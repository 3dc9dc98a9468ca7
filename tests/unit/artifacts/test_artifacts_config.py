import pytest

from tandem.artifacts.config import ModelConfig
from tandem.core.errors import ConfigError


def test_llama_with_defaults(llama: dict[str, object]) -> None:
    config = ModelConfig.from_json(llama)
    assert (config.num_layers, config.num_heads, config.num_kv_heads) == (2, 4, 2)
    assert config.head_dim == 16
    assert (config.rope_theta, config.rope_scaling) == (10_000.0, None)
    assert (config.attention_bias, config.qk_norm, config.tie_word_embeddings) == (False,) * 3
    assert config.sliding_window is None
    assert config.output_token_ids is None
    hash(config)


@pytest.mark.parametrize(
    ("name", "attention_bias", "qk_norm", "sliding_window"),
    [
        ("LlamaForCausalLM", False, False, None),
        ("MistralForCausalLM", False, False, 32),
        ("Qwen2ForCausalLM", True, False, None),
        ("Qwen3ForCausalLM", False, True, None),
    ],
)
def test_families(
    llama: dict[str, object],
    name: str,
    attention_bias: bool,
    qk_norm: bool,
    sliding_window: int | None,
) -> None:
    config = ModelConfig.from_json({**llama, "architectures": [name], "sliding_window": 32})
    assert config.attention_bias is attention_bias
    assert config.qk_norm is qk_norm
    assert config.sliding_window == sliding_window


def test_old_and_new_spelling_of_rope_are_one(llama: dict[str, object]) -> None:
    scaling = {"factor": 8.0, "low_freq_factor": 1.0}
    old = llama | {"rope_theta": 5e5, "rope_scaling": {"type": "llama3", **scaling}}
    new = llama | {"rope_parameters": {"rope_theta": 5e5, "rope_type": "llama3", **scaling}}
    config = ModelConfig.from_json(new)
    assert config == ModelConfig.from_json(old)
    assert config.canonical_json() == ModelConfig.from_json(old).canonical_json()
    assert config.rope_theta == 5e5
    assert config.rope_scaling == {"rope_type": "llama3", **scaling}


def test_default_rope_is_no_scaling(llama: dict[str, object]) -> None:
    new = llama | {"rope_parameters": {"rope_theta": 7.0, "rope_type": "default"}}
    assert ModelConfig.from_json(new).rope_scaling is None


@pytest.mark.parametrize(("eos", "expected"), [(2, {2}), ([2, 7], {2, 7}), (None, set())])
def test_eos_may_be_one_or_many(llama: dict[str, object], eos: object, expected: set[int]) -> None:
    assert ModelConfig.from_json(llama | {"eos_token_id": eos}).eos_token_ids == expected


@pytest.mark.parametrize(("first", "expected"), [(0, 32), (2, None)])
def test_qwens_window(llama: dict[str, object], first: int, expected: int | None) -> None:
    fields = {"use_sliding_window": True, "sliding_window": 32, "max_window_layers": first}
    qwen = {**llama, "architectures": ["Qwen2ForCausalLM"], **fields}
    assert ModelConfig.from_json(qwen).sliding_window == expected


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
        ("attention_bias", True),
        ("mlp_bias", True),
        ("quantization_config", {"bits": 4}),
    ],
)
def test_a_wrong_field_is_named(llama: dict[str, object], field: str, value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        ModelConfig.from_json(llama | {field: value}, "here/config.json")
    assert caught.value.param == field
    assert caught.value.message.startswith(f"here/config.json: {field!r}")


def test_supported_architectures_are_named(llama: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"'GPT2LMHeadModel' is not supported.*LlamaForCausalLM"):
        ModelConfig.from_json(llama | {"architectures": ["GPT2LMHeadModel"]})
