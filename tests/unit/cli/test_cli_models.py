"""`tandem pull` and `tandem models`, as a user sees them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tandem.artifacts.cache import packed_dir
from tandem.artifacts.model_folder import ModelFolder
from tandem.artifacts.packed import note_origin
from tandem.artifacts.pull import default_folder
from tandem.artifacts.resolve import MOCK_FOLDER
from tandem.cli.app import commands
from tandem.core.errors import ConfigError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TANDEM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the mock model, which is the smallest there is."""
    copy = tmp_path / "Little"
    copy.mkdir()
    for file in MOCK_FOLDER.glob("*.json"):
        (copy / file.name).write_bytes(file.read_bytes())
    return copy


def tandem(*arguments: str) -> str:
    result = CliRunner().invoke(commands, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_an_empty_cache_says_what_to_do() -> None:
    assert "`tandem pull` fetches the default" in tandem("models")
    assert json.loads(tandem("models", "--json")) == []


def test_pull_list_remove(folder: Path, cache: Path) -> None:
    path = tandem("pull", str(folder)).strip()
    assert path.startswith(str(cache))
    table = tandem("models").splitlines()
    names = ["name", "architecture", "parameters", "layers", "length"]
    assert table[0].split() == [*names, "on", "disk", "packed", "source"]
    assert table[1].split()[:2] == ["little", "Mock"]
    assert table[1].split()[-1] == str(folder)
    (model,) = json.loads(tandem("models", "--json"))
    assert (model["name"], model["path"]) == ("little", path)
    assert model["max_model_len"] > 0
    assert tandem("models", "rm", "little").strip() == f"removed {path}"
    assert json.loads(tandem("models", "--json")) == []


def test_the_default_is_removed_as_it_is_pulled(folder: Path) -> None:
    by_name = default_folder()
    by_name.parent.mkdir(parents=True)
    folder.rename(by_name)
    assert tandem("models", "rm", "default").strip() == f"removed {by_name}"
    assert not by_name.exists()


def test_what_is_called_default_goes_first(folder: Path) -> None:
    default_folder().mkdir(parents=True)
    (default_folder() / "config.json").touch()
    called_so = Path(tandem("pull", str(folder.rename(folder.parent / "default"))).strip())
    assert tandem("models", "rm", "default").strip() == f"removed {called_so}"
    assert default_folder().exists()


def test_packed_weights_are_shown_and_go_with_their_model(folder: Path) -> None:
    """Those of a model in the cache, and of one that is used where it lies."""
    pulled = Path(tandem("pull", str(folder)).strip())
    for path, size in ((pulled, 2000), (folder, 3_000_000)):
        packed = packed_dir() / path.name
        packed.mkdir(parents=True)
        (packed / "float32-none-avx2-0000.weights").write_bytes(b"w" * size)
        note_origin(packed, ModelFolder.open(path))
    own, other, _ = tandem("models").splitlines()[1:]
    assert " 2 kB " in own
    assert other.startswith(f"{folder}: 3 MB of packed weights; `tandem models rm {folder}`")
    assert json.loads(tandem("models", "--json"))[0]["packed_size"] == 2000
    assert tandem("models", "rm", str(folder)).strip() == f"removed {packed_dir() / folder.name}"
    assert (folder / "config.json").exists()
    assert "packed weights" not in tandem("models")


def test_a_damaged_model_says_why(folder: Path) -> None:
    path = Path(tandem("pull", str(folder)).strip())
    (path / "config.json").write_text("{")
    assert "config.json is not valid JSON" in tandem("models")
    assert "is not valid JSON" in json.loads(tandem("models", "--json"))[0]["problem"]


@pytest.mark.parametrize("arguments", [("models", "rm", "x"), ("pull", "no such thing")])
def test_what_is_not_there_is_one_line(arguments: tuple[str, ...]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tandem.cli", *arguments],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("error: there is no model ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("exists", [Path.exists, os.path.exists])
@pytest.mark.parametrize(
    "arguments", [["models"], ["models", "--json"], ["models", "rm", "x"], ["pull"]]
)
def test_a_cache_that_cannot_be_seen_is_named(
    monkeypatch: pytest.MonkeyPatch, exists: Callable[[Path], bool], arguments: list[str]
) -> None:
    """As another user's: but nobody is refused anything who is root. From Python 3.14 on a path
    does not say why it is not there."""
    monkeypatch.setattr(Path, "exists", exists)
    monkeypatch.setenv("TANDEM_CACHE", f"/{'x' * 300}")
    with pytest.raises(ConfigError, match=r"cannot read the cache /x+ \(File name too long\): set"):
        tandem(*arguments)


def test_who_has_no_home_is_told_to_name_a_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TANDEM_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    with pytest.raises(ConfigError, match="no home folder: set TANDEM_CACHE"):
        tandem("models")


@pytest.mark.parametrize("command", ["pull", "up"])
def test_help_shows_how_a_model_is_called(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rich would take what is in brackets for markup and drop it."""
    monkeypatch.setenv("COLUMNS", "200")
    assert "org/name@revision, org/name:Q4_K_M" in tandem(command, "--help")


def test_help_needs_nothing_heavy() -> None:
    """Imports take most of a command's start."""
    heavy = {"numpy", "grpc", "tokenizers", "huggingface_hub", "httpx2", "fastapi", "torch", "gguf"}
    code = (
        "import sys; sys.argv[1:] = ['--help']\n"
        "from tandem.cli import app\n"
        "try: app()\n"
        f"except SystemExit: sys.exit(', '.join(set(sys.modules) & {heavy}) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.stderr == ""
    assert "models" in done.stdout
