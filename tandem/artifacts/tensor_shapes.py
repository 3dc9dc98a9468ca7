"""The tensors of a model, by the names that Hugging Face gives them."""

from __future__ import annotations

from tandem.artifacts.config import ModelConfig

EMBEDDING = "model.embed_tokens.weight"
FINAL_NORM = "model.norm.weight"
LM_HEAD = "lm_head.weight"

Shape = tuple[int, ...]


def layer_name(index: int, name: str) -> str:
    return f"model.layers.{index}.{name}"


def tensor_shapes(config: ModelConfig) -> dict[str, Shape]:
    """Every tensor of a checkpoint, by its name in it."""
    vocabulary = (config.vocab_size, config.hidden_size)
    shapes: dict[str, Shape] = {EMBEDDING: vocabulary}
    layer = _layer_shapes(config)
    for index in range(config.num_layers):
        shapes |= {layer_name(index, name): shape for name, shape in layer.items()}
    shapes[FINAL_NORM] = (config.hidden_size,)
    if not config.tie_word_embeddings:
        shapes[LM_HEAD] = vocabulary
    return shapes


def _layer_shapes(config: ModelConfig) -> dict[str, Shape]:
    hidden, inner, head_dim = config.hidden_size, config.intermediate_size, config.head_dim
    queries, keys = config.num_heads * head_dim, config.num_kv_heads * head_dim
    shapes: dict[str, Shape] = {
        "input_layernorm.weight": (hidden,),
        "self_attn.q_proj.weight": (queries, hidden),
        "self_attn.k_proj.weight": (keys, hidden),
        "self_attn.v_proj.weight": (keys, hidden),
        "self_attn.o_proj.weight": (hidden, queries),
        "post_attention_layernorm.weight": (hidden,),
        "mlp.gate_proj.weight": (inner, hidden),
        "mlp.up_proj.weight": (inner, hidden),
        "mlp.down_proj.weight": (hidden, inner),
    }
    if config.qkv_bias:
        for name, width in (("q", queries), ("k", keys), ("v", keys)):
            shapes[f"self_attn.{name}_proj.bias"] = (width,)
    if config.output_bias:
        shapes["self_attn.o_proj.bias"] = (hidden,)
    if config.mlp_bias:
        for name, width in (("gate", inner), ("up", inner), ("down", hidden)):
            shapes[f"mlp.{name}_proj.bias"] = (width,)
    if config.qk_norm:
        shapes |= {f"self_attn.{name}_norm.weight": (head_dim,) for name in ("q", "k")}
    return shapes
