import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import save_file

from tandem.artifacts import tokenizer
from tandem.artifacts.model_folder import ModelFolder
from tandem.artifacts.safetensors_header import TensorEntry, read_safetensors_header
from tandem.core.errors import ConfigError

MakeFolder = Callable[..., Path]


def shard(folder: Path, weight_map: dict[str, str]) -> None:
    (folder / "model.safetensors").unlink()
    save_file({"a": np.zeros(3, np.float32)}, folder / "one.safetensors")
    save_file({"b": np.zeros(5, np.float32)}, folder / "two.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))


def test_opens(make_folder: MakeFolder) -> None:
    path = make_folder()
    folder = ModelFolder.open(path)
    assert folder.name == "tiny-llama"
    assert folder.weight_files == (path / "model.safetensors",)
    assert folder.tokenizer().encode("A") == [65]


def test_eos_ids_of_the_generation_config_count(make_folder: MakeFolder) -> None:
    path = make_folder()
    (path / "generation_config.json").write_text('{"eos_token_id": [3, 4]}')
    assert ModelFolder.open(path).config.eos_token_ids == {2, 3, 4}


@pytest.mark.parametrize("token", ["<|im_end|>", {"content": "<|im_end|>", "special": True}])
def test_the_eos_token_of_the_tokenizers_config_counts(
    make_folder: MakeFolder, token: object
) -> None:
    path = make_folder()
    (path / "tokenizer_config.json").write_text(json.dumps({"eos_token": token}))
    assert ModelFolder.open(path).config.eos_token_ids == {2, 258}


@pytest.mark.parametrize(
    ("token", "vocab_size"), [("<|im_end|>", 258), ("<|none|>", 260), (None, 260)]
)
def test_an_eos_token_without_logits_says_nothing(
    make_folder: MakeFolder, token: str | None, vocab_size: int
) -> None:
    path = make_folder(vocab_size=vocab_size)
    (path / "tokenizer_config.json").write_text(json.dumps({"eos_token": token}))
    assert ModelFolder.open(path).config.eos_token_ids == {2}


@pytest.mark.parametrize("tokens", ["[{}]", '[{"content": "<|e|>", "id": "2"}]', "[1]", "[", "[[1"])
def test_a_damaged_tokenizer_is_not_read_for_its_eos_token(
    make_folder: MakeFolder, tokens: str
) -> None:
    path = make_folder()
    (path / "tokenizer_config.json").write_text('{"eos_token": "<|e|>"}')
    (path / "tokenizer.json").write_text(f'{{"added_tokens": {tokens}}}')
    folder = ModelFolder.open(path)
    assert folder.config.eos_token_ids == {2}
    with pytest.raises(ConfigError, match=r"tokenizer\.json is not a valid tokenizer"):
        folder.tokenizer()


def test_shards(make_folder: MakeFolder) -> None:
    path = make_folder()
    shard(path, {"b": "two.safetensors", "a": "one.safetensors"})
    names = [file.name for file in ModelFolder.open(path).weight_files]
    assert names == ["one.safetensors", "two.safetensors"]


@pytest.mark.parametrize(
    ("weight_map", "what"),
    [
        ({"a": "one.safetensors", "c": "two.safetensors"}, "lacks the tensor 'c'"),
        ({"a": "three.safetensors"}, "three.safetensors"),
        ({"a": "../one.safetensors"}, "must be the name of a file here"),
        ({"a": ".."}, "must be the name of a file here"),
        ({"a": ""}, "must be the name of a file here"),
        ({"a": 1}, "expected a string"),
    ],
)
def test_shards_that_do_not_fit(
    make_folder: MakeFolder, weight_map: dict[str, str], what: str
) -> None:
    path = make_folder()
    shard(path, weight_map)
    with pytest.raises(ConfigError, match=what):
        ModelFolder.open(path)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_missing_file_is_named(make_folder: MakeFolder, name: str) -> None:
    path = make_folder()
    (path / name).unlink()
    with pytest.raises(ConfigError, match=name):
        ModelFolder.open(path)


@pytest.mark.parametrize("content", ["", "{", "[]", "[" * 100_000, "\xff"])
def test_a_broken_config_is_refused(make_folder: MakeFolder, content: str) -> None:
    path = make_folder()
    (path / "config.json").write_text(content, encoding="latin-1")
    with pytest.raises(ConfigError, match=r"config\.json"):
        ModelFolder.open(path)


def test_a_huge_config_is_not_read(make_folder: MakeFolder) -> None:
    path = make_folder()
    with (path / "config.json").open("r+b") as file:
        file.truncate(2**40)
    with pytest.raises(ConfigError, match="too large"):
        ModelFolder.open(path)


def test_a_broken_tokenizer_is_refused(make_folder: MakeFolder) -> None:
    path = make_folder()
    (path / "tokenizer.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"tokenizer\.json is not a valid tokenizer"):
        ModelFolder.open(path).tokenizer()


def test_a_tokenizer_on_which_the_library_panics_is_refused(make_folder: MakeFolder) -> None:
    path = make_folder()
    file = path / "tokenizer.json"
    normalizer = {"type": "Precompiled", "precompiled_charsmap": "AAAA"}
    file.write_text(json.dumps({**json.loads(file.read_text()), "normalizer": normalizer}))
    with pytest.raises(ConfigError, match=r"not a valid tokenizer .*precompiled_charsmap"):
        ModelFolder.open(path).tokenizer()


@pytest.mark.parametrize("signal", [KeyboardInterrupt, SystemExit])
def test_what_ends_the_process_is_not_taken_for_a_broken_tokenizer(
    make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch, signal: type[BaseException]
) -> None:
    def interrupted(path: str) -> None:
        raise signal

    monkeypatch.setattr(tokenizer.tokenizers, "Tokenizer", SimpleNamespace(from_file=interrupted))
    with pytest.raises(signal):
        ModelFolder.open(make_folder()).tokenizer()


def test_weights_that_were_replaced_have_no_fingerprint(make_folder: MakeFolder) -> None:
    path = make_folder()
    folder = ModelFolder.open(path)
    weights = path / "model.safetensors"
    os.utime(weights, ns=(0, weights.stat().st_mtime_ns + 1))
    with pytest.raises(ConfigError, match=r"model\.safetensors was changed"):
        _ = folder.fingerprint


def test_weights_that_are_gone_have_no_fingerprint(make_folder: MakeFolder) -> None:
    folder = ModelFolder.open(make_folder())
    for file in (folder.path / "model.safetensors", folder.path / "tokenizer.json"):
        file.unlink()
    with pytest.raises(ConfigError, match=r"cannot read .*model\.safetensors"):
        _ = folder.fingerprint
    with pytest.raises(ConfigError, match=r"cannot read .*tokenizer\.json"):
        _ = folder.tokenizer_fingerprint


def test_another_tokenizer_has_another_fingerprint(make_folder: MakeFolder) -> None:
    one, other = make_folder("one"), make_folder("other")
    whole = (other / "tokenizer.json").read_text()
    same, _ = (ModelFolder.open(path).tokenizer_fingerprint for path in (one, other))
    (other / "tokenizer.json").write_text(whole.replace("<|im_end|>", "<|im_over|>"))
    folders = ModelFolder.open(one), ModelFolder.open(other)
    assert folders[0].tokenizer_fingerprint == same != folders[1].tokenizer_fingerprint
    assert folders[0].fingerprint == folders[1].fingerprint


def test_the_header_says_where_tensors_are(make_folder: MakeFolder) -> None:
    path = make_folder() / "model.safetensors"
    size = path.stat().st_size
    entries = read_safetensors_header(path)
    assert entries == {
        "a": TensorEntry("F32", (2, 3), size - 32, size - 8),
        "b": TensorEntry("F16", (4,), size - 8, size),
    }


@pytest.mark.parametrize("change", [-1, +1])
def test_a_weight_file_of_another_length_is_refused(make_folder: MakeFolder, change: int) -> None:
    weights = make_folder() / "model.safetensors"
    data = weights.read_bytes()
    weights.write_bytes((data + b"\0")[: len(data) + change])
    with pytest.raises(ConfigError, match=r"not a whole safetensors file"):
        ModelFolder.open(weights.parent)


@pytest.mark.parametrize(
    "header",
    [
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}},
        {"a": {"dtype": "U8", "shape": [2], "data_offsets": [2, 4]}},
        {"a": {"dtype": "F32", "shape": [1]}},
        {"a": 1},
        [],
    ],
)
def test_a_header_that_lies_is_refused(tmp_path: Path, header: object) -> None:
    text = json.dumps(header).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"\0" * 4)
    with pytest.raises(ConfigError, match=r"not a whole safetensors file"):
        read_safetensors_header(path)


def test_a_huge_header_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"\xff" * 16)
    with pytest.raises(ConfigError, match="a header of"):
        read_safetensors_header(path)


def test_the_fingerprint_changes_with_one_byte(make_folder: MakeFolder) -> None:
    first, same, other = (make_folder(name) for name in ("first", "same", "other"))
    weights = bytearray((other / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (other / "model.safetensors").write_bytes(weights)
    fingerprints = [ModelFolder.open(path).fingerprint for path in (first, same, other)]
    assert len(fingerprints[0]) == 32
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]


def test_the_fingerprint_changes_with_the_config(make_folder: MakeFolder) -> None:
    first = ModelFolder.open(make_folder("first"))
    other = ModelFolder.open(make_folder("other", rope_theta=7.0))
    assert first.fingerprint != other.fingerprint
