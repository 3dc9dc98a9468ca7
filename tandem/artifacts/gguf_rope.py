"""How a GGUF file stretches rotary embedding, in Hugging Face's words."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from tandem.artifacts.gguf_file import GgufFile
from tandem.artifacts.json_object import JsonObject
from tandem.core.errors import ConfigError

# Llama 3's stretching comes as a table of the factors that slow each frequency. These of its
# parameters are the same in all models that Meta published; the file does not have them.
FREQUENCY_FACTORS = "rope_freqs.weight"
LLAMA3 = {
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
TOLERANCE = 1e-4
# What is read under `<architecture>.rope.`; "finetuned", which converters write, changes nothing.
FACTORS = ("scaling.factor", "scale_linear")  # the second one is older
KNOWN = ("scaling.type", "scaling.original_context_length", "scaling.finetuned", *FACTORS)


def gguf_rope_scaling(
    file: GgufFile, kind: str, rope_theta: float, head_dim: int
) -> dict[str, object] | None:
    """The contents of `rope_scaling` for a file of the architecture `kind`, None for plain rotary
    embedding, as llama.cpp understands it: a factor alone is linear. Raises `ConfigError` for what
    is not supported."""
    metadata, prefix = file.metadata, f"{kind}.rope."
    for key in metadata.data:
        if key.startswith(f"{prefix}scal") and key.removeprefix(prefix) not in KNOWN:
            raise metadata.wrong(key, "nothing: this variant of scaling is not supported")
    scaling = _scaling(metadata, prefix)
    if FREQUENCY_FACTORS not in file.tensors:
        return scaling
    if scaling is not None:
        key = _factor_key(metadata, prefix)
        raise metadata.wrong(key, f"nothing: scaling beside {FREQUENCY_FACTORS} is not supported")
    return _llama3(file, rope_theta, head_dim)


def _scaling(metadata: JsonObject, prefix: str) -> dict[str, object] | None:
    """What the metadata say by themselves."""
    factor_key = _factor_key(metadata, prefix)
    type_key = f"{prefix}scaling.type"
    if metadata.has(type_key):
        rope_type = metadata.text(type_key)
    else:
        rope_type = "linear" if metadata.has(factor_key) else "none"
    if rope_type == "none":
        return None
    if rope_type not in ("linear", "yarn"):
        raise metadata.wrong(type_key, "one of the supported: none, linear, yarn")
    factor = metadata.positive_number(factor_key)
    if rope_type == "linear":
        return None if factor == 1 else {"rope_type": rope_type, "factor": factor}
    length = metadata.positive(f"{prefix}scaling.original_context_length")
    return {"rope_type": rope_type, "factor": factor, "original_max_position_embeddings": length}


def _factor_key(metadata: JsonObject, prefix: str) -> str:
    """The key that has the factor; the first if there is none."""
    keys = [f"{prefix}{name}" for name in FACTORS]
    return next((key for key in keys if metadata.has(key)), keys[0])


def _llama3(file: GgufFile, rope_theta: float, head_dim: int) -> dict[str, object]:
    """The parameters that give the file's factors: the slowest frequency has the whole factor."""
    found = np.asarray(file.tensors[FREQUENCY_FACTORS].data)
    if found.shape == (head_dim // 2,) and found.dtype == np.float32:
        factor = float(found[-1])
        if factor > 0 and np.allclose(found, _factors(rope_theta, head_dim, factor), TOLERANCE):
            return {"rope_type": "llama3", "factor": factor, **LLAMA3}
    raise ConfigError(
        f"{file.path}: {FREQUENCY_FACTORS} is not the scaling of a Llama 3 model, the one that is"
        " supported: give such a model as a Hugging Face folder"
    )


def _factors(rope_theta: float, head_dim: int, factor: float) -> NDArray[np.float64]:
    frequencies = rope_theta ** -(np.arange(0, head_dim, 2) / head_dim)
    turns = LLAMA3["original_max_position_embeddings"] * frequencies / (2 * math.pi)
    low, high = LLAMA3["low_freq_factor"], LLAMA3["high_freq_factor"]
    kept = ((turns - low) / (high - low)).clip(0, 1)
    factors: NDArray[np.float64] = 1 / ((1 - kept) / factor + kept)
    return factors
