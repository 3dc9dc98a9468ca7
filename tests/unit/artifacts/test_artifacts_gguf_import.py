import struct
import tracemalloc
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
import tiny_gguf
import torch
from numpy.typing import NDArray

from tandem.artifacts.gguf_config import gguf_config
from tandem.artifacts.gguf_file import GgufFile
from tandem.artifacts.gguf_import import import_gguf
from tandem.artifacts.json_object import JsonObject
from tandem.artifacts.model_folder import ModelFolder
from tandem.artifacts.rope_scaling import LinearScaling, Llama3Scaling, RopeScaling
from tandem.artifacts.safetensors_header import read_safetensors_header
from tandem.core.errors import ConfigError

LAST_PLACE = 2.0**-8


def read_bfloat16(path: Path) -> dict[str, NDArray[np.float32]]:
    data = path.read_bytes()
    tensors = {}
    for name, entry in read_safetensors_header(path).items():
        assert entry.dtype == "BF16"
        bits = np.frombuffer(data[entry.start : entry.end], np.uint16).astype(np.uint32) << 16
        tensors[name] = bits.view(np.float32).reshape(entry.shape)
    return tensors


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_the_weights_come_back_under_hugging_faces_names(tmp_path: Path, kind: str) -> None:
    import_gguf(tiny_gguf.write(tmp_path / "x.gguf", kind), tmp_path / "out")
    found = read_bfloat16(tmp_path / "out" / "model.safetensors")
    expected = tiny_gguf.hugging_face_weights(kind)
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        np.testing.assert_allclose(found[name], weight, rtol=LAST_PLACE, atol=0, err_msg=name)


QUANTISATIONS = [
    *("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"),
    *("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS"),
]


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
@pytest.mark.parametrize("name", QUANTISATIONS)
def test_values_are_those_of_the_reference(tmp_path: Path, name: str, kind: str) -> None:
    """Bit for bit those of the gguf library, rounded to bfloat16, in Hugging Face's order."""
    quantisation = gguf.GGMLQuantizationType[name]
    path = tiny_gguf.write(tmp_path / "x.gguf", kind, quantisation, sizes=tiny_gguf.WIDE)
    import_gguf(path, tmp_path / "out")
    found = read_bfloat16(tmp_path / "out" / "model.safetensors")
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    assert len(found) == len(tensors)
    names = gguf.get_tensor_name_map(getattr(gguf.MODEL_ARCH, kind.upper()), tiny_gguf.LAYERS)
    for hugging_face_name, values in found.items():
        tensor = tensors[names.get_name(hugging_face_name, try_suffixes=(".weight", ".bias"))]
        assert (tensor.tensor_type == quantisation) or len(tensor.shape) == 1
        expected = torch.tensor(gguf.quants.dequantize(tensor.data, tensor.tensor_type))
        # The converter's permutation of what we found is what was in the file.
        for part, heads in (("q", tiny_gguf.HEADS), ("k", tiny_gguf.KV_HEADS)):
            if kind == "llama" and hugging_face_name.endswith(f"self_attn.{part}_proj.weight"):
                values = tiny_gguf.permute(values, heads)  # noqa: PLW2901
        assert np.array_equal(values, expected.bfloat16().float().numpy()), hugging_face_name


def test_a_quantised_model_is_close_to_the_original(tmp_path: Path) -> None:
    q8_0 = gguf.GGMLQuantizationType.Q8_0
    import_gguf(tiny_gguf.write(tmp_path / "x.gguf", quantisation=q8_0), tmp_path / "out")
    found = read_bfloat16(tmp_path / "out" / "model.safetensors")
    for name, weight in tiny_gguf.hugging_face_weights().items():
        np.testing.assert_allclose(found[name], weight, rtol=LAST_PLACE, atol=0.03, err_msg=name)


def test_the_folder_is_complete(tmp_path: Path) -> None:
    import_gguf(tiny_gguf.write(tmp_path / "x.gguf"), tmp_path / "out")
    folder = ModelFolder.open(tmp_path / "out")
    assert folder.config.architecture == "LlamaForCausalLM"
    assert (folder.config.rms_norm_eps, folder.config.rope_theta) == (1e-6, 50_000.0)
    assert folder.config.tie_word_embeddings
    assert folder.config.eos_token_ids == {0}
    tokenizer = folder.tokenizer()
    # Digits stay apart although a merge would join them.
    assert tokenizer.encode("ab c12<tool><|end|>") == [5, 4, 3, 6, 7, 8, 0]
    assert tokenizer.decode([5, 8, 0]) == "ab<tool>"
    assert tokenizer.apply_chat_template([{"content": "a"}]) == "a<|end|>"


def test_the_end_of_a_turn_is_known_by_its_text(tmp_path: Path) -> None:
    # Text that a user may write ends nothing.
    words = ["<|end|>", "a", "b", "<|im_end|>", "Ġ", "ab", "1", "2", "<|eot_id|>", "12"]
    import_gguf(tiny_gguf.write(tmp_path / "x.gguf", words=words), tmp_path / "out")
    assert ModelFolder.open(tmp_path / "out").config.eos_token_ids == {0, 8}


@pytest.mark.parametrize(
    ("kind", "end"),
    [("llama", "<|end_of_text|>"), ("qwen2", "<|endoftext|>"), ("qwen3", "<|endoftext|>")],
)
def test_the_end_of_a_text_is_known_beside_that_of_a_turn(
    tmp_path: Path, kind: str, end: str
) -> None:
    words = ["<|im_end|>", "a", "b", end, "Ġ", "ab", "1", "2", "<tool>", "12"]
    controls = ("<|im_end|>", end)
    import_gguf(
        tiny_gguf.write(tmp_path / "x.gguf", kind, words=words, controls=controls), tmp_path / "out"
    )
    assert ModelFolder.open(tmp_path / "out").config.eos_token_ids == {0, 3}


def test_heads_that_are_not_told_of_share_no_keys(tmp_path: Path) -> None:
    """Of a Llama whose config does not name them, llama.cpp's converter does not, either."""
    file = GgufFile.open(tiny_gguf.write(tmp_path / "x.gguf"))
    metadata = dict(file.metadata.data)
    assert metadata.pop("llama.attention.head_count_kv") == tiny_gguf.KV_HEADS
    config = gguf_config(replace(file, metadata=JsonObject(metadata, "x.gguf")))
    assert config["num_key_value_heads"] == tiny_gguf.HEADS


def test_other_pre_tokenizers_join_digits(tmp_path: Path) -> None:
    import_gguf(tiny_gguf.write(tmp_path / "x.gguf", pre="llama-bpe"), tmp_path / "out")
    assert ModelFolder.open(tmp_path / "out").tokenizer().encode("12") == [9]


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.1, 0.3, 0.6, 0.99])
def test_a_truncated_file_is_refused_and_leaves_nothing(tmp_path: Path, kept: float) -> None:
    path = tiny_gguf.write(tmp_path / "x.gguf")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(ConfigError, match="not a whole GGUF file"):
        import_gguf(path, tmp_path / "out")
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.gguf"]


def test_a_damaged_count_does_not_hang(tmp_path: Path) -> None:
    path = tiny_gguf.write(tmp_path / "x.gguf")
    data = bytearray(path.read_bytes())
    at = data.index(b"tokenizer.ggml.token_type") + len("tokenizer.ggml.token_type") + 8
    data[at : at + 8] = b"\xff" * 7 + b"\x7f"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match="not a whole GGUF file"):
        import_gguf(path, tmp_path / "out")


def test_weights_that_are_no_numbers_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    path = tiny_gguf.write(tmp_path / "x.gguf")
    data = path.read_bytes()
    path.write_bytes(data[:-4] + np.float32(np.nan).tobytes())
    with pytest.raises(ConfigError, match="no numbers"):
        import_gguf(path, tmp_path / "out")
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.gguf"]


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    path = tiny_gguf.write(tmp_path / "x.gguf", drop="blk.1.ffn_up.weight")
    with pytest.raises(ConfigError, match=r"blk\.1\.ffn_up\.weight is missing"):
        import_gguf(path, tmp_path / "out")


def test_a_variant_with_other_tensors_is_refused(tmp_path: Path) -> None:
    path = tiny_gguf.write(tmp_path / "x.gguf", rope_freqs=np.ones(4, np.float32))
    with pytest.raises(ConfigError, match="rope_freqs"):
        import_gguf(path, tmp_path / "out")


def test_what_is_supported_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'gemma' is not supported; .* llama, qwen2, qwen3"):
        import_gguf(_only_kind(tmp_path / "x.gguf", "gemma"), tmp_path / "out")
    with pytest.raises(ConfigError, match=r"'falcon', expected one of .* gpt-2, smollm"):
        import_gguf(tiny_gguf.write(tmp_path / "y.gguf", pre="falcon"), tmp_path / "out")


@pytest.mark.parametrize(
    ("key", "value", "what"),
    [
        ("split.count", 3, "llama-gguf-split --merge"),
        ("llama.expert_count", 8, "mixtures of experts"),
        ("llama.attention.causal", False, "attention to what comes later"),
        ("llama.rope.dimension_count", 4, "the size of a head"),
        ("llama.attention.value_length", 16, "the size of a head"),
        ("llama.rope.scaling.type", "longrope", "'longrope', expected one of .* linear, yarn"),
    ],
)
def test_an_unsupported_variant_is_named(
    tmp_path: Path, key: str, value: int | str, what: str
) -> None:
    path = tiny_gguf.write(tmp_path / "x.gguf", metadata={key: value})
    with pytest.raises(ConfigError, match=what) as caught:
        import_gguf(path, tmp_path / "out")
    assert f"{key!r}" in caught.value.message


def imported_scaling(
    tmp_path: Path, metadata: dict[str, int | str], **extra: NDArray[np.float32]
) -> RopeScaling | None:
    path = tiny_gguf.write(tmp_path / "x.gguf", metadata=metadata, **extra)
    import_gguf(path, tmp_path / "out")
    return ModelFolder.open(tmp_path / "out").config.rope_scaling


FACTOR, OLD_FACTOR = "llama.rope.scaling.factor", "llama.rope.scale_linear"
TYPE = "llama.rope.scaling.type"
# Llama 3's table where it stretches by 1.
FREQUENCY_FACTORS = {"rope_freqs.weight": np.ones(4, np.float32)}


@pytest.mark.parametrize(
    ("metadata", "factor"),
    [
        ({FACTOR: 4}, 4.0),
        ({OLD_FACTOR: 4}, 4.0),
        ({FACTOR: 4, OLD_FACTOR: 8}, 4.0),
        ({TYPE: "linear", OLD_FACTOR: 4}, 4.0),
        ({OLD_FACTOR: 1}, None),
        ({TYPE: "none", FACTOR: 4}, None),
        ({"llama.rope.scaling.original_context_length": 64}, None),
    ],
)
def test_a_factor_alone_is_linear_scaling(
    tmp_path: Path, metadata: dict[str, int | str], factor: float | None
) -> None:
    expected = None if factor is None else LinearScaling(factor)
    assert imported_scaling(tmp_path, metadata) == expected


def test_a_table_of_factors_is_not_taken_for_all_of_two_scalings(tmp_path: Path) -> None:
    for metadata in ({}, {FACTOR: 1}, {TYPE: "none", FACTOR: 4}):
        (folder := tmp_path / str(len(metadata))).mkdir()
        found = imported_scaling(folder, metadata, **FREQUENCY_FACTORS)
        assert isinstance(found, Llama3Scaling)
    for key in (FACTOR, OLD_FACTOR):
        with pytest.raises(ConfigError, match=f"'{key}' is 4, .* beside rope_freqs"):
            imported_scaling(tmp_path, {key: 4}, **FREQUENCY_FACTORS)


@pytest.mark.parametrize("name", ["scaling.attn_factor", "scaling.alpha", "scale_other"])
@pytest.mark.parametrize("beside", [{}, {TYPE: "none"}, {TYPE: "linear", FACTOR: 4}])
def test_scaling_that_is_not_read_is_named(
    tmp_path: Path, name: str, beside: dict[str, int | str]
) -> None:
    for extra in ({}, FREQUENCY_FACTORS):
        with pytest.raises(ConfigError, match=rf"'llama\.rope\.{name}' is 2, expected nothing"):
            imported_scaling(tmp_path, beside | {f"llama.rope.{name}": 2}, **extra)


def test_a_parameter_of_scaling_that_would_be_missed_is_refused(tmp_path: Path) -> None:
    prefix = "llama.rope.scaling."
    metadata = {
        f"{prefix}type": "yarn",
        f"{prefix}factor": 4,
        f"{prefix}original_context_length": 64,
        f"{prefix}yarn_beta_fast": 16,
    }
    with pytest.raises(ConfigError, match="yarn_beta_fast"):
        import_gguf(tiny_gguf.write(tmp_path / "x.gguf", metadata=metadata), tmp_path / "out")


def header(num_tensors: int, num_values: int) -> bytes:
    return struct.pack("<4sIQQ", b"GGUF", 3, num_tensors, num_values)


def text(value: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(value) if length is None else length) + value


HUGE = 2**60
ARRAY, UINT8, STRING = 9, 0, 8
LIES = {
    "no-gguf": b"GGML" + bytes(100),
    "version": struct.pack("<4sIQQ", b"GGUF", 99, 0, 0),
    "many-values": header(0, HUGE),
    "many-tensors": header(HUGE, 0),
    "long-key": header(0, 1) + text(b"key", HUGE),
    "long-string": header(0, 1) + text(b"key") + struct.pack("<I", STRING) + text(b"x", HUGE),
    "long-array": header(0, 1) + text(b"key") + struct.pack("<IIQ", ARRAY, UINT8, HUGE),
    "unknown-type": header(0, 1) + text(b"key") + struct.pack("<I", 77),
    "deep-array": header(0, 1) + text(b"k") + struct.pack("<I", ARRAY) + 50_000 * (
        struct.pack("<IQ", ARRAY, 1)
    ),
    "huge-tensor": header(1, 0) + text(b"t") + struct.pack("<IQQIQ", 2, HUGE, 2, 0, 0) + bytes(64),
    "many-dimensions": header(1, 0) + text(b"t") + struct.pack("<I", 2**32 - 1) + bytes(64),
    "unknown-quantisation": header(1, 0) + text(b"t") + struct.pack("<IQIQ", 1, 32, 999, 0),
    "tensor-far-away": header(1, 0) + text(b"t") + struct.pack("<IQIQ", 1, 4, 0, HUGE) + bytes(64),
}  # fmt: skip


@pytest.mark.parametrize("name", LIES)
def test_a_header_that_lies_is_refused_in_little_memory(tmp_path: Path, name: str) -> None:
    (tmp_path / "x.gguf").write_bytes(LIES[name])
    tracemalloc.start()
    try:
        with pytest.raises(ConfigError, match="not a whole GGUF file"):
            import_gguf(tmp_path / "x.gguf", tmp_path / "out")
        assert tracemalloc.get_traced_memory()[1] < 64 * 2**20
    finally:
        tracemalloc.stop()


def test_a_file_of_nothing_but_metadata_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each byte of such an array would become an object."""
    monkeypatch.setattr("tandem.artifacts.gguf_file.MAX_VALUES", 1000)
    array = struct.pack("<IIQ", ARRAY, UINT8, 2000) + bytes(2000)
    (tmp_path / "x.gguf").write_bytes(header(0, 1) + text(b"key") + array)
    with pytest.raises(ConfigError, match="more than 1000 values"):
        import_gguf(tmp_path / "x.gguf", tmp_path / "out")


def test_an_existing_folder_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(ConfigError, match="exists already"):
        import_gguf(tiny_gguf.write(tmp_path / "x.gguf"), tmp_path / "out")


def _only_kind(path: Path, kind: str) -> Path:
    writer = gguf.GGUFWriter(path, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
