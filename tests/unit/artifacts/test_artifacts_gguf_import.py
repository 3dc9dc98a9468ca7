from pathlib import Path

import gguf
import numpy as np
import pytest
import tiny_gguf
from numpy.typing import NDArray

from tandem.artifacts.gguf_import import import_gguf
from tandem.artifacts.model_folder import ModelFolder
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


def test_quantised_rows_are_put_in_order_and_dequantised(tmp_path: Path) -> None:
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
    with pytest.raises(ConfigError, match=r"tokenizer\.ggml\.pre.* gpt-2, smollm"):
        import_gguf(tiny_gguf.write(tmp_path / "y.gguf", pre="falcon"), tmp_path / "out")


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
